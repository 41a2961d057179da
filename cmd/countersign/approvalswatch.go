package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/terminal"
)

// watching is what a watch has told of.
type watching struct {
	call   *call
	client *apiClient
	asJSON bool
	open   map[string]bool // told, and still open
}

// errWatchEnds is the console's word that the token is not good any more.
var errWatchEnds = errors.New("the watch has ended: your token has expired, or its session is over")

// watchAgain is the time between two attempts to reach a console that is away.
const watchAgain = 2 * time.Second

// approvalsWatch prints requests as they come, and what becomes of them, until it is interrupted.
func approvalsWatch(ctx context.Context, c *call) error {
	f := c.flags("approvals watch")
	flags := approvalsFlags(f)
	asJSON := f.Bool("json", false, "print requests as JSON lines")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	client, err := c.apiClient(flags)
	if err != nil {
		return err
	}
	w := &watching{call: c, client: client, asJSON: *asJSON, open: map[string]bool{}}
	for {
		err := w.follow(ctx)
		var refused *refusedError
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // whoever watching has stopped
		case errors.Is(err, errWatchEnds), errors.As(err, &refused) && refused.status/100 == 4:
			return err
		}
		fmt.Fprintf(c.stderr, "countersign: %v; trying again\n", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
		}
	}
}

// follow tells of what the console's events say, until they end.
func (w *watching) follow(ctx context.Context) error {
	resp, err := w.client.send(ctx, http.MethodGet, "/api/approvals/events", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusalIn(resp)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 64<<10)
	event := ""
	for lines.Scan() {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			event = name
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		if err := w.event(ctx, event, data); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("follow the console: %w", err)
	}
	return errors.New("follow the console: it closed the connection")
}

func (w *watching) event(ctx context.Context, event, data string) error {
	switch event {
	case "end":
		return errWatchEnds
	case "reset": // what happened until now may not have been told
		return w.all(ctx)
	}
	var change struct {
		ID    string `json:"id"`
		State string `json:"state"`
	}
	if err := json.Unmarshal([]byte(data), &change); err != nil {
		return fmt.Errorf("read an event of the console: %w", err)
	}
	switch {
	case change.State == "pending" && !w.open[change.ID]:
		return w.all(ctx)
	case change.State != "pending" && w.open[change.ID]:
		delete(w.open, change.ID)
		if !w.asJSON {
			_, err := fmt.Fprintf(w.call.stdout, "%s  %s\n", terminal.Line(change.ID), terminal.Line(change.State))
			return err
		}
	}
	return nil
}

// all tells of what is open and was not told, oldest first.
func (w *watching) all(ctx context.Context) error {
	open, after := map[string]bool{}, ""
	var fresh []json.RawMessage
	for {
		page, err := w.client.list(ctx, "pending", after)
		if err != nil {
			return err
		}
		for _, raw := range page.Approvals {
			var r struct {
				ID string `json:"id"`
			}
			if err := json.Unmarshal(raw, &r); err != nil {
				return fmt.Errorf("read a request: %w", err)
			}
			open[r.ID] = true
			if !w.open[r.ID] {
				fresh = append(fresh, raw)
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	w.open = open
	for i := len(fresh) - 1; i >= 0; i-- {
		if err := printLine(w.call.stdout, fresh[i], w.asJSON, time.Now()); err != nil {
			return err
		}
	}
	return nil
}
