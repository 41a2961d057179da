package approval

import (
	"context"
	"time"
)

// Follower keeps up with what becomes of requests. All of its functions are required.
type Follower struct {
	// Watch is a store's. All is called when a watch has begun, and where changes may have been missed; Change for every other.
	// After an error of any of them Failed is told, and all of it begins anew a second later: what was missed is then looked for.
	Watch  func(ctx context.Context) (<-chan Change, error)
	All    func(ctx context.Context) error
	Change func(ctx context.Context, c Change) error
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
