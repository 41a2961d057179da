package redis

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/countersign/countersign/extproc/keyfile"
)

// Options say where a Redis is. Addresses is required.
type Options struct {
	Addresses []string // HOST:PORT of the server, of the Sentinels, or of some nodes of the cluster
	Sentinel  string   // name of the primary, when Addresses are Sentinels
	Cluster   bool
	Database  int    // not of a cluster
	Username  string // of an ACL user

	// PasswordFile is read for every new connection, so that it can be changed while the gateway runs.
	PasswordFile string

	SentinelUsername     string
	SentinelPasswordFile string // read once

	TLS *tls.Config // nil for plain text

	Prefix      string        // of every key and channel; "countersign" unless set
	Replicas    int           // that must have a change before it counts; 1 with Sentinel unless set, 0 otherwise; -1 for none
	WaitTimeout time.Duration // for Replicas; 500 ms unless set
	Retain      time.Duration // how long a final request is kept; 30 days unless set
	Timeout     time.Duration // of one command; 3 s unless set
}

// ParseURL reads redis://[USER@]HOST:PORT[,HOST:PORT…][/DATABASE][?sentinel=NAME|cluster=true][&replicas=N][&prefix=TEXT].
// rediss is for TLS. A password in it is refused: it belongs in a file.
func ParseURL(text string) (Options, error) {
	u, err := url.Parse(text)
	if err != nil {
		return Options{}, errors.New("the URL of the approvals store cannot be read") // without the URL: it may hold a password
	}
	o := Options{Username: u.User.Username(), Addresses: strings.Split(u.Host, ",")}
	if _, ok := u.User.Password(); ok {
		return Options{}, errors.New("the URL of the approvals store has a password in it; put it into a file")
	}
	switch u.Scheme {
	case "redis":
	case "rediss":
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	default:
		return Options{}, fmt.Errorf("the approvals store has the scheme %q; it can be redis or rediss", u.Scheme)
	}
	for i, address := range o.Addresses {
		if _, _, err := net.SplitHostPort(address); err != nil {
			o.Addresses[i] = net.JoinHostPort(strings.Trim(address, "[]"), "6379")
		}
		if strings.HasPrefix(o.Addresses[i], ":") {
			return Options{}, fmt.Errorf("the approvals store %s has no host", u.Redacted())
		}
	}
	if path := strings.Trim(u.Path, "/"); path != "" {
		if o.Database, err = strconv.Atoi(path); err != nil || o.Database < 0 {
			return Options{}, fmt.Errorf("the approvals store has the database %q, which is not a number", path)
		}
	}
	for key, values := range u.Query() {
		value := values[len(values)-1]
		switch {
		case len(values) > 1:
			err = errors.New("it is there twice")
		case key == "sentinel" && value != "":
			o.Sentinel = value
		case key == "cluster":
			o.Cluster, err = strconv.ParseBool(value)
		case key == "replicas":
			if o.Replicas, err = strconv.Atoi(value); err == nil && o.Replicas == 0 {
				o.Replicas = -1
			}
		case key == "prefix" && value != "" && !strings.ContainsAny(value, "{}"):
			o.Prefix = value
		default:
			err = errors.New("it is not known, or empty")
		}
		if err != nil {
			return Options{}, fmt.Errorf("the approvals store has the setting %s=%q: %w", key, value, err)
		}
	}
	if o.Cluster && (o.Sentinel != "" || o.Database != 0) {
		return Options{}, errors.New("the approvals store is a cluster, which has no Sentinel and no database")
	}
	return o, nil
}

func (o *Options) client() (goredis.UniversalClient, error) {
	if len(o.Addresses) == 0 {
		return nil, errors.New("the approvals store has no address")
	}
	timeout := cmp.Or(o.Timeout, 3*time.Second)
	u := &goredis.UniversalOptions{
		Addrs: o.Addresses, MasterName: o.Sentinel, IsClusterMode: o.Cluster, DB: o.Database, TLSConfig: o.TLS,
		SentinelUsername: o.SentinelUsername, ClientName: "countersign", DisableIdentity: true, Protocol: 2,
		DialTimeout: timeout, ReadTimeout: timeout + o.waitTimeout(), WriteTimeout: timeout, ContextTimeoutEnabled: true,
		PoolSize: 32, PipelinePoolSize: -1,
	}
	if o.SentinelPasswordFile != "" {
		password, err := readPassword(o.SentinelPasswordFile)
		if err != nil {
			return nil, err
		}
		u.SentinelPassword = password
	}
	if o.Username != "" || o.PasswordFile != "" {
		username, file := o.Username, o.PasswordFile
		u.CredentialsProviderContext = func(context.Context) (string, string, error) {
			password, err := readPassword(file)
			return username, password, err
		}
	}
	return goredis.NewUniversalClient(u), nil
}

func (o *Options) waitTimeout() time.Duration { return cmp.Or(o.WaitTimeout, 500*time.Millisecond) }

func (o *Options) replicas() int {
	switch {
	case o.Replicas < 0:
		return 0
	case o.Replicas == 0 && o.Sentinel != "":
		return 1
	default:
		return o.Replicas
	}
}

func readPassword(file string) (string, error) {
	password, err := keyfile.Secret(file)
	if err != nil {
		return "", fmt.Errorf("read the password of the approvals store: %w", err)
	}
	return password, nil
}
