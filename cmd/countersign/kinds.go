package main

import (
	"fmt"
	"slices"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/evidence/otlp"
	"github.com/countersign/countersign/extproc/kind"
	"github.com/countersign/countersign/extproc/kind/http"
	"github.com/countersign/countersign/extproc/kind/tcp"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/xds"
)

// kinds are the kinds of resources. A kind that is added is added here, and nowhere else.
var kinds = []kind.Kind{http.Kind, tcp.Kind}

//go:generate go test -run ^TestInputSchemaFile$ -update .

func policyKinds() (list []policy.Kind) {
	for _, k := range kinds {
		list = append(list, k.Policy)
	}
	return list
}

func configKinds() (list []config.Kind) {
	for _, k := range kinds {
		list = append(list, k.Config)
	}
	return list
}

func otlpKinds() (list []otlp.Kind) {
	for _, k := range kinds {
		list = append(list, k.OTLP)
	}
	return list
}

func envoyKinds() (list []xds.Kind) {
	for _, k := range kinds {
		if k.Envoy != nil {
			list = append(list, k.Envoy)
		}
	}
	return list
}

// kindNamed is the kind that a resource says it is of.
func kindNamed(name string) (kind.Kind, error) {
	i := slices.IndexFunc(kinds, func(k kind.Kind) bool { return k.Config.Name == name })
	if i < 0 {
		return kind.Kind{}, fmt.Errorf("there is no kind %q of resource", name)
	}
	return kinds[i], nil
}
