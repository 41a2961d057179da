package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/embedded"
	"github.com/countersign/countersign/extproc/approval/redis"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/keyfile"
)

// approvalStore is a store that is closed when the gateway stops.
type approvalStore interface {
	approval.Store
	io.Closer
}

// openStore opens the store of requests, and returns the key that digests of operations are made with. own is this gateway's.
func openStore(ctx context.Context, c *config.Config, own []byte) (approvalStore, []byte, error) {
	if c.Approvals.Store == "embedded" {
		store, err := embedded.Open(filepath.Join(string(c.Data), "approvals.db"), embedded.Options{})
		if err != nil {
			return nil, nil, err
		}
		return store, own, nil
	}
	options, err := redisOptions(c)
	if err != nil {
		return nil, nil, fmt.Errorf("approvals.store: %w", err)
	}
	store, err := redis.New(options)
	if err != nil {
		return nil, nil, fmt.Errorf("approvals.store: %w", err)
	}
	key, err := store.KeptKey(ctx, filepath.Join(string(c.Data), "keys", "shared-digest.key"), own)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("approvals.store: %w", err), store.Close())
	}
	return store, key, nil
}

func redisOptions(c *config.Config) (redis.Options, error) {
	o, err := redis.ParseURL(c.Approvals.Store)
	if err != nil {
		return o, err
	}
	r := c.Approvals.Redis
	o.PasswordFile, o.SentinelUsername, o.SentinelPasswordFile = string(r.PasswordFile), r.SentinelUsername, string(r.SentinelPasswordFile)
	if o.TLS == nil {
		return o, nil
	}
	if o.TLS.RootCAs, err = keyfile.RootsOrSystem(string(r.CAFile)); err != nil {
		return o, fmt.Errorf("read approvals.redis.ca_file: %w", err)
	}
	if r.CertificateFile != "" {
		pair, err := tls.LoadX509KeyPair(string(r.CertificateFile), string(r.KeyFile))
		if err != nil {
			return o, fmt.Errorf("read approvals.redis.certificate_file: %w", err)
		}
		o.TLS.Certificates = []tls.Certificate{pair}
	}
	return o, nil
}
