package main

import (
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/policy"
)

//go:generate go test -run ^TestInputSchemaFile$ -update .

// kinds are what policies see of each kind of resource.
var kinds = []policy.Kind{
	{Name: "http", Doc: "the request, for a resource of kind http", Detail: web.Schema{}, Body: "body", Bodies: "bodies"},
}
