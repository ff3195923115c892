// A DRA driver that does as little as Go's helper package allows: the reference for latency and memory.
//
// It publishes COUNT devices, writes one CDI file a claim and keeps a JSON checkpoint, as dra-example-driver does.
// In the environment: DRIVER, NODE, CDI, DATA, REGISTRY, COUNT, KUBECONFIG.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	"k8s.io/utils/ptr"
)

// Requests a second. client-go allows 5 by default, and so do drivers that leave it at that.
const qps = 1000

type driver struct {
	mutex    sync.Mutex
	name     string
	cdi      string
	state    string
	prepared map[types.UID][]string
}

func (d *driver) PrepareResourceClaims(_ context.Context, claims []*resourceapi.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	results := map[types.UID]kubeletplugin.PrepareResult{}
	for _, claim := range claims {
		results[claim.UID] = d.prepare(claim)
	}
	return results, nil
}

func (d *driver) prepare(claim *resourceapi.ResourceClaim) kubeletplugin.PrepareResult {
	spec := map[string]any{"cdiVersion": "0.5.0", "kind": "k8s." + d.name + "/claim"}
	var devices []map[string]any
	var names []string
	var result kubeletplugin.PrepareResult
	for _, each := range claim.Status.Allocation.Devices.Results {
		if each.Driver != d.name {
			continue
		}
		id := string(claim.UID) + "-" + each.Device
		devices = append(devices, map[string]any{
			"name":           id,
			"containerEdits": map[string]any{"env": []string{"DEVICE=" + each.Device}},
		})
		result.Devices = append(result.Devices, kubeletplugin.Device{
			Requests: []string{each.Request}, PoolName: each.Pool, DeviceName: each.Device,
			CDIDeviceIDs: []string{"k8s." + d.name + "/claim=" + id},
		})
		names = append(names, each.Device)
	}
	spec["devices"] = devices
	d.prepared[claim.UID] = names
	if err := write(d.spec(claim.UID), spec); err != nil {
		return kubeletplugin.PrepareResult{Err: err}
	}
	if err := write(d.state, d.prepared); err != nil {
		return kubeletplugin.PrepareResult{Err: err}
	}
	return result
}

func (d *driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	results := map[types.UID]error{}
	for _, claim := range claims {
		if err := os.Remove(d.spec(claim.UID)); err != nil && !os.IsNotExist(err) {
			results[claim.UID] = err
			continue
		}
		delete(d.prepared, claim.UID)
		results[claim.UID] = write(d.state, d.prepared)
	}
	return results, nil
}

func (d *driver) spec(uid types.UID) string {
	return filepath.Join(d.cdi, d.name+"-"+string(uid)+".json")
}

func (d *driver) WatchHealthStatus(context.Context, chan<- kubeletplugin.DeviceHealthReport) error {
	return kubeletplugin.ErrHealthNotSupported
}

func (d *driver) HandleError(_ context.Context, err error, message string) {
	fmt.Fprintln(os.Stderr, message, err)
}

// write replaces a file: written beside, synced, renamed.
func write(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".tmp")
	if err != nil {
		return err
	}
	if _, err = file.Write(data); err == nil {
		err = file.Sync()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	check(err)
	config.QPS, config.Burst = qps, 2*qps
	config.ContentType = "application/json"
	client, err := kubernetes.NewForConfig(config)
	check(err)
	name, node, data := os.Getenv("DRIVER"), os.Getenv("NODE"), os.Getenv("DATA")
	check(os.MkdirAll(data, 0o750))
	check(os.MkdirAll(os.Getenv("CDI"), 0o750))
	d := &driver{
		name: name, cdi: os.Getenv("CDI"), state: filepath.Join(data, "checkpoint.json"),
		prepared: map[types.UID][]string{},
	}
	helper, err := kubeletplugin.Start(ctx, d,
		kubeletplugin.KubeClient(client), kubeletplugin.NodeName(node), kubeletplugin.DriverName(name),
		kubeletplugin.PluginDataDirectoryPath(data),
		kubeletplugin.RegistrarDirectoryPath(os.Getenv("REGISTRY")))
	check(err)
	count, err := strconv.Atoi(os.Getenv("COUNT"))
	check(err)
	var devices []resourceapi.Device
	for i := range count {
		devices = append(devices, resourceapi.Device{
			Name:       fmt.Sprintf("device-%d", i),
			Attributes: map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{"index": {IntValue: ptr.To(int64(i))}},
		})
	}
	pool := resourceslice.Pool{Slices: []resourceslice.Slice{{Devices: devices}}}
	check(helper.PublishResources(ctx, resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{node: pool}}))
	<-ctx.Done()
	helper.Stop()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
