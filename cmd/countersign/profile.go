package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/listener"
)

// listenProfile serves the runtime's profiles. They show what the process works on, so only this machine can have them.
func (g *gateway) listenProfile(ctx context.Context, a config.Address) error {
	if !a.Loopback() {
		return usagef("serve: --pprof %s: only a loopback address is accepted", a)
	}
	l, err := listener.Listen(ctx, a)
	if err != nil {
		return fmt.Errorf("--pprof: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := listener.HTTP("the profiles", mux)
	server.WriteTimeout = 10 * time.Minute // a profile takes as long as it was asked to
	listener.Serve("the profiles", server, l, func(detail string) { g.log.Warn("profiles are no longer served", "error", detail) })
	return nil
}
