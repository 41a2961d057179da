package main

import (
	"slices"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/evidence/otlp"
	"github.com/countersign/countersign/extproc/kind"
	"github.com/countersign/countersign/extproc/kind/http"
	"github.com/countersign/countersign/extproc/kind/postgres"
	"github.com/countersign/countersign/extproc/kind/tcp"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/xds"
)

// kinds are the kinds of resources. A kind that is added is added here, and nowhere else.
var kinds = []kind.Kind{http.Kind, tcp.Kind, postgres.Kind}

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

// kindOf is the kind of a resource. A configuration that was loaded has no resource of another.
func kindOf(r config.Resource) kind.Kind {
	return kinds[slices.IndexFunc(kinds, func(k kind.Kind) bool { return k.Config.Name == r.Common().Kind })]
}
