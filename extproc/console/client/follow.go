package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Listener is told by [Client.Follow]. All of its functions are required.
type Listener struct {
	Opened func(request json.RawMessage) // each that is open, once; the oldest comes first
	Closed func(id, state string)        // one that was told of is not pending any more
	Lost   func(err error)               // the console is away, and is asked again
}

var errEnded = errors.New("the watch has ended: your token has expired, or its session is over")

// again is the time between two attempts to reach a console that is away.
const again = 2 * time.Second

// Follow tells of requests as they come, and what becomes of them, until ctx is done. It returns an error where the console
// refuses to go on.
func (c *Client) Follow(ctx context.Context, l Listener) error {
	f := &following{client: c, listener: l, open: map[string]bool{}}
	for {
		err := f.follow(ctx)
		refused, isRefused := errors.AsType[*refusedError](err)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // whoever follows has stopped
		case errors.Is(err, errEnded), isRefused && refused.status/100 == 4:
			return err
		}
		l.Lost(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		}
	}
}

// following is one call of Follow.
type following struct {
	client   *Client
	listener Listener
	open     map[string]bool // told, and still open
}

// follow tells of what the console's events say, until they end.
func (f *following) follow(ctx context.Context) error {
	resp, err := f.client.send(ctx, http.MethodGet, "/events", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
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
		if err := f.event(ctx, event, data); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("follow the console: %w", err)
	}
	return errors.New("follow the console: it closed the connection")
}

func (f *following) event(ctx context.Context, event, data string) error {
	switch event {
	case "end":
		return errEnded
	case "reset": // what happened until now may not have been told
		return f.all(ctx)
	}
	change, err := readStanding([]byte(data))
	if err != nil {
		return err
	}
	switch {
	case change.State == "pending" && !f.open[change.ID]:
		return f.all(ctx)
	case change.State != "pending" && f.open[change.ID]:
		delete(f.open, change.ID)
		f.listener.Closed(change.ID, change.State)
	}
	return nil
}

// standing is what is followed of a request.
type standing struct {
	ID    string `json:"id"`
	State string `json:"state"`
}

func readStanding(raw json.RawMessage) (s standing, err error) {
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("read how a request stands: %w", err)
	}
	return s, nil
}

// all tells of what is open and was not told, and of what was told and is not open any more: the event that said so may be lost.
func (f *following) all(ctx context.Context) error {
	open := map[string]bool{}
	var fresh []json.RawMessage
	for raw, err := range f.client.List(ctx, "pending") {
		if err != nil {
			return err
		}
		r, err := readStanding(raw)
		if err != nil {
			return err
		}
		open[r.ID] = true
		if !f.open[r.ID] {
			fresh = append(fresh, raw)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(f.open)) {
		if open[id] {
			continue
		}
		raw, err := f.client.Show(ctx, id)
		if refused, ok := errors.AsType[*refusedError](err); ok && refused.status == http.StatusNotFound { // nobody keeps it any more
			raw, err = json.RawMessage(`{"state":"gone"}`), nil
		}
		if err != nil {
			return err
		}
		r, err := readStanding(raw)
		if err != nil {
			return err
		}
		delete(f.open, id)
		f.listener.Closed(id, r.State)
	}
	f.open = open
	for _, raw := range slices.Backward(fresh) {
		f.listener.Opened(raw)
	}
	return nil
}
