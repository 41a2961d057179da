package approval

import (
	"context"
	"time"
)

// Follower keeps up with what becomes of requests. All of its functions are required. After an error of one of them it calls
// Failed, and begins anew a second later.
type Follower struct {
	Watch  func(ctx context.Context) (<-chan Change, error) // a store's
	All    func(ctx context.Context) error                  // looks at all requests: when a watch has begun, and when changes may have been missed
	Change func(ctx context.Context, c Change) error        // looks at one request that has changed
	Failed func(err error)
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := f.watch(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		f.Failed(err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// watch follows until the store ends the watch.
func (f *Follower) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes, err := f.Watch(ctx)
	if err != nil {
		return err
	}
	if err := f.All(ctx); err != nil { // for what changed before the watch began
		return err
	}
	for c := range changes {
		if c.ID == "" {
			err = f.All(ctx)
		} else {
			err = f.Change(ctx, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
