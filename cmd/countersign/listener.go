package main

import (
	"net/http"
	"time"
)

// How long a client of the admin interface, the console or the profiles may take. Each is many times what the slowest honest
// one needs; server-sent events set their own.
const (
	slowestHead   = 5 * time.Second
	slowestBody   = 10 * time.Second // head included: the largest is a decision of some KiB
	slowestReader = time.Minute      // from the head to the last byte of the answer
	longestIdle   = time.Minute
	largestHead   = 32 << 10
)

// httpServer is every HTTP server of this process: nobody holds a connection, or a goroutine, by being slow.
func httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: slowestHead, ReadTimeout: slowestBody, WriteTimeout: slowestReader,
		IdleTimeout: longestIdle, MaxHeaderBytes: largestHead,
	}
}
