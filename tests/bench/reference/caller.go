// Calls the sockets of DRA drivers as kubelet does, and tells how long it takes.
//
// Each line of the input is an order, each line of the output the milliseconds of its calls.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
)

const limit = 2 * time.Minute

type order struct {
	Socket string         `json:"socket"`
	Claims []*drapb.Claim `json:"claims"`
	Cycles int            `json:"cycles"`  // prepare, prepare again, unprepare of one claim after the other
	AtOnce bool           `json:"at_once"` // one call for each claim, all at the same time
	Keep   bool           `json:"keep"`    // leave the claims prepared
}

type times struct {
	Prepare   []float64 `json:"prepare"`
	Again     []float64 `json:"again"`
	Unprepare []float64 `json:"unprepare"`
}

func main() {
	clients := map[string]drapb.DRAPluginClient{}
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 1<<20)
	output := json.NewEncoder(os.Stdout)
	for input.Scan() {
		var wanted order
		check(json.Unmarshal(input.Bytes(), &wanted))
		client, known := clients[wanted.Socket]
		if !known {
			connection, err := grpc.NewClient("unix:"+wanted.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
			check(err)
			client = drapb.NewDRAPluginClient(connection)
			clients[wanted.Socket] = client
		}
		check(output.Encode(done(client, wanted)))
	}
	check(input.Err())
}

func done(client drapb.DRAPluginClient, wanted order) times {
	var took times
	if wanted.AtOnce {
		took.Prepare = append(took.Prepare, timed(func() { together(client, wanted.Claims, prepare) }))
		if !wanted.Keep {
			took.Unprepare = append(took.Unprepare, timed(func() { together(client, wanted.Claims, unprepare) }))
		}
	}
	for i := range wanted.Cycles {
		claim := wanted.Claims[i%len(wanted.Claims)]
		took.Prepare = append(took.Prepare, timed(func() { prepare(client, claim) }))
		took.Again = append(took.Again, timed(func() { prepare(client, claim) }))
		took.Unprepare = append(took.Unprepare, timed(func() { unprepare(client, claim) }))
	}
	return took
}

func together(client drapb.DRAPluginClient, claims []*drapb.Claim, call func(drapb.DRAPluginClient, *drapb.Claim)) {
	var all sync.WaitGroup
	for _, claim := range claims {
		all.Go(func() { call(client, claim) })
	}
	all.Wait()
}

func prepare(client drapb.DRAPluginClient, claim *drapb.Claim) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	answer, err := client.NodePrepareResources(ctx, &drapb.NodePrepareResourcesRequest{Claims: []*drapb.Claim{claim}})
	check(err)
	if one := answer.Claims[claim.Uid]; len(one.GetDevices()) == 0 {
		check(fmt.Errorf("no devices for %s: %s", claim.Name, one.GetError()))
	}
}

func unprepare(client drapb.DRAPluginClient, claim *drapb.Claim) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	answer, err := client.NodeUnprepareResources(ctx, &drapb.NodeUnprepareResourcesRequest{Claims: []*drapb.Claim{claim}})
	check(err)
	if problem := answer.Claims[claim.Uid].GetError(); problem != "" {
		check(fmt.Errorf("%s: %s", claim.Name, problem))
	}
}

func timed(call func()) float64 {
	began := time.Now()
	call()
	return float64(time.Since(began).Microseconds()) / 1000
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
