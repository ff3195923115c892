// Reads the metadata file of a request, where a container has it, with the decoder that Kubernetes has for applications.
//
// Arguments: the driver, the pod's name of a claim that is made of a template, the request. Prints the version of each
// object of the file and its content.
package main

import (
	"bytes"
	"encoding/json"
	"log"
	"os"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/dynamic-resource-allocation/api/metadata"
	"k8s.io/dynamic-resource-allocation/api/metadata/v1beta1"
	"k8s.io/dynamic-resource-allocation/devicemetadata"
)

func main() {
	driver, claim, request := os.Args[1], os.Args[2], os.Args[3]
	_, err := devicemetadata.ReadResourceClaimTemplateMetadata(claim, request)
	check(err)
	file, err := os.Open(metadata.ResourceClaimTemplateFilePath(driver, claim, request))
	check(err)
	for stream := json.NewDecoder(file); stream.More(); {
		var object json.RawMessage
		check(stream.Decode(&object))
		var decoded v1beta1.DeviceMetadata
		var kind schema.GroupVersionKind
		var invalid error
		check(devicemetadata.DecodeMetadataFromStream(
			json.NewDecoder(bytes.NewReader(object)),
			&decoded,
			devicemetadata.DecodeMetadataStoreGVKResult(&kind),
			devicemetadata.DecodeMetadataWithValidationResult(&invalid),
		))
		check(invalid)
		check(json.NewEncoder(os.Stdout).Encode(map[string]any{"version": kind.Version, "content": decoded}))
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
