package redis

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// Store implements [approval.Store].
type Store struct {
	client   goredis.UniversalClient
	prefix   string
	replicas int
	wait     time.Duration
	retain   time.Duration
}

// New returns a store. It does not connect: if Redis cannot be reached, the store's methods say so.
func New(o Options) (*Store, error) {
	quiet()
	client, err := o.client()
	if err != nil {
		return nil, err
	}
	return &Store{
		client: client, prefix: "{" + cmp.Or(o.Prefix, "countersign") + "}:", replicas: o.replicas(), wait: o.waitTimeout(),
		retain: cmp.Or(o.Retain, 30*24*time.Hour),
	}, nil
}

// quiet keeps the client from writing to standard error: what goes wrong is in the errors that it returns.
var quiet = sync.OnceFunc(func() { goredis.SetLogger(discard{}) })

type discard struct{}

func (discard) Printf(context.Context, string, ...any) {}

// Close ends the connections.
func (s *Store) Close() error { return s.client.Close() }

// sharedKeyWait is how long KeptKey waits for Redis.
const sharedKeyWait = 5 * time.Second

// KeptKey is SharedKey for a start. It keeps the key in a file, so that a gateway can start, and do what needs no approval, while
// Redis is away.
func (s *Store) KeptKey(ctx context.Context, file string, proposed []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, sharedKeyWait)
	defer cancel()
	key, err := s.SharedKey(ctx, proposed)
	if err != nil {
		kept, readErr := datafile.ReadFile(file, 64<<10)
		if readErr != nil || len(kept) < 16 {
			return nil, fmt.Errorf("the key that gateways share cannot be had, and there is none from an earlier start: %w", err)
		}
		return kept, nil
	}
	if err := datafile.Replace(datafile.Disk{}, file, key); err != nil {
		return nil, fmt.Errorf("keep the key that gateways share: %w", err)
	}
	return key, nil
}

// SharedKey returns the digest key that all gateways of this store use: proposed, if they have none yet. With different keys two
// gateways would take one operation for two.
func (s *Store) SharedKey(ctx context.Context, proposed []byte) ([]byte, error) {
	key := s.prefix + "digest-key"
	if err := s.client.SetNX(ctx, key, hex.EncodeToString(proposed), 0).Err(); err != nil {
		return nil, failed("agree on a digest key", err)
	}
	if err := s.confirm(ctx); err != nil {
		return nil, err
	}
	text, err := s.client.Get(ctx, key).Result()
	if err != nil {
		return nil, failed("read the digest key", err)
	}
	return hex.DecodeString(text)
}

func (s *Store) key(kind, name string) string { return s.prefix + kind + ":" + name }

func agentKey(a approval.Party) string {
	sum := sha256.Sum256([]byte(strconv.Itoa(len(a.Issuer)) + ":" + a.Issuer + a.Subject))
	return hex.EncodeToString(sum[:16])
}

func failed(what string, err error) error { return fmt.Errorf("%s in Redis: %w", what, err) }

// run runs a script. If it writes, run waits for the replicas on the same connection: WAIT is about what its own connection wrote.
// It does not wait for a script that has changed nothing and is tried again: see tryAgain.
func (s *Store) run(ctx context.Context, script *goredis.Script, writes bool, keys []string, args ...any) (any, error) {
	if !writes || s.replicas == 0 {
		return script.Run(ctx, s.client, keys, args...).Result()
	}
	node, err := s.primary(ctx)
	if err != nil {
		return nil, err
	}
	conn := node.Conn()
	defer conn.Close()
	result, err := script.Run(ctx, conn, keys, args...).Result()
	if err != nil {
		return nil, err
	}
	if tryAgain(result) {
		return result, nil
	}
	n, err := conn.Wait(ctx, s.replicas, s.wait).Result()
	if err != nil || n < int64(s.replicas) {
		return nil, errors.Join(fmt.Errorf("%w: %d of %d", approval.ErrUncertain, n, s.replicas), err)
	}
	return result, nil
}

// tryAgain reports whether a script answers that another change came first, or the deadline. It has changed nothing then, and its
// caller reads again, so that an answer is uncertain only if it may be stored.
func tryAgain(result any) bool {
	if list, ok := result.([]any); ok && len(list) > 0 {
		result = list[0]
	}
	return result == "conflict" || result == "joined" || result == "late"
}

// primary returns the client of the server that has the keys.
func (s *Store) primary(ctx context.Context) (*goredis.Client, error) {
	switch c := s.client.(type) {
	case *goredis.Client:
		return c, nil
	case *goredis.ClusterClient:
		return c.MasterForKey(ctx, s.prefix)
	default:
		return nil, fmt.Errorf("a %T has no primary", c)
	}
}

// confirm waits until the replicas have what was written before.
func (s *Store) confirm(ctx context.Context) error {
	_, err := s.run(ctx, scriptTouch, true, []string{s.prefix + "touched"})
	if err != nil {
		return failed("wait for replicas", err)
	}
	return nil
}

var scriptTouch = goredis.NewScript(`return redis.call('SET', KEYS[1], '1')`)

// Open implements [approval.Store].
func (s *Store) Open(
	ctx context.Context, o approval.Opening, create func(time.Time) (approval.Request, error),
) (approval.Request, bool, error) {
	window := cmp.Or(o.Limits.RateWindow, time.Minute)
	agent := agentKey(o.Agent)
	keys := []string{
		s.key("digest", o.Digest), s.prefix + "live", s.key("agent", agent), s.key("resource", o.Resource), s.key("rate", agent),
	}
	for range 8 {
		found, err := s.run(ctx, scriptFind, false, keys, s.key("request", ""))
		if err != nil {
			return approval.Request{}, false, failed("look for the request", err)
		}
		list, ok := found.([]any)
		if !ok || len(list) != 8 {
			return approval.Request{}, false, fmt.Errorf("redis answered %d values", len(list))
		}
		now := micros(list[0])
		if id, ok := list[1].(string); ok && id != "" {
			r, err := decode(id, list[6:])
			if err == nil && r.Due(now) {
				err = approval.ErrDue
			}
			if errors.Is(err, approval.ErrNotFound) || err == nil && !r.State.Live() {
				continue // closed since it was found
			}
			return r, true, err
		}
		if err := room(&o.Limits, list[2:6]); err != nil {
			return approval.Request{}, false, err
		}
		r, err := create(now)
		if err != nil {
			return approval.Request{}, false, err
		}
		word, err := s.open(ctx, keys, &o, &r, window)
		switch {
		case err != nil:
			return approval.Request{}, false, failed("open the request", err)
		case word == "opened":
			return r, false, nil
		case word != "joined":
			return approval.Request{}, false, limitError(word, &o.Limits)
		}
	}
	return approval.Request{}, false, errors.New("open the request in Redis: others keep closing it")
}

func (s *Store) open(ctx context.Context, keys []string, o *approval.Opening, r *approval.Request, window time.Duration) (string, error) {
	if r.Digest != o.Digest || r.Agent != o.Agent || r.Resource != o.Resource || r.ID == "" || r.State != approval.Pending {
		return "", errors.New("the new request is not the one that is opened")
	}
	r.Rev, r.Changed = 1, r.Created
	text, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	keys = append(slices.Clone(keys), s.prefix+"all", s.prefix+"unrecorded", s.key("request", r.ID))
	l := &o.Limits
	result, err := s.run(ctx, scriptOpen, true, keys,
		r.ID, text, r.Card, r.Deadline().UnixMicro(), l.Total, l.PerAgent, l.PerResource, l.Rate, window.Milliseconds(),
		oldest(r.Created.Add(-s.retain)), s.channel(), message(r))
	if err != nil {
		return "", err
	}
	list, ok := result.([]any)
	if !ok || len(list) != 2 {
		return "", fmt.Errorf("redis answered %v", result)
	}
	word, _ := list[0].(string)
	return word, nil
}

// oldest returns a text that sorts before every id made at t or later, and after every older one: ids begin with the time in
// milliseconds.
func oldest(t time.Time) string { return gate.NewID(t)[:14] }

func room(l *approval.Limits, counts []any) error {
	names := []string{"total", "agent", "resource", "rate"}
	limits := []int{l.Total, l.PerAgent, l.PerResource, l.Rate}
	for _, i := range []int{1, 2, 0, 3} {
		if n, ok := counts[i].(int64); !ok || limits[i] > 0 && n >= int64(limits[i]) {
			return limitError(names[i], l)
		}
	}
	return nil
}

func limitError(word string, l *approval.Limits) error {
	switch word {
	case "total":
		return &approval.LimitError{What: approval.LimitTotal, Limit: l.Total}
	case "agent":
		return &approval.LimitError{What: approval.LimitAgent, Limit: l.PerAgent}
	case "resource":
		return &approval.LimitError{What: approval.LimitResource, Limit: l.PerResource}
	case "rate":
		return &approval.LimitError{What: approval.LimitRate, Limit: l.Rate}
	default:
		return fmt.Errorf("redis answered %q", word)
	}
}

// Get implements [approval.Store].
func (s *Store) Get(ctx context.Context, id string) (approval.Request, error) {
	values, err := s.client.HMGet(ctx, s.key("request", id), "r", "c").Result()
	if err != nil {
		return approval.Request{}, failed("read request "+id, err)
	}
	return decode(id, values)
}

func decode(id string, values []any) (approval.Request, error) {
	text, ok := values[0].(string)
	if !ok {
		return approval.Request{}, approval.ErrNotFound
	}
	var r approval.Request
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return approval.Request{}, fmt.Errorf("read request %s: %w", id, err)
	}
	if len(values) > 1 {
		card, _ := values[1].(string)
		r.Card = []byte(card)
	}
	return r, nil
}

// Update implements [approval.Store].
func (s *Store) Update(
	ctx context.Context, id string, change func(time.Time, *approval.Request) error,
) (approval.Request, error) {
	late := 0
	for try := range 100 {
		before, now, err := s.read(ctx, id)
		if err != nil {
			return approval.Request{}, err
		}
		after := before.Clone()
		if err := change(now, &after); err != nil {
			return before, err
		}
		if after.ID != before.ID || after.Digest != before.Digest || after.Agent != before.Agent || after.Resource != before.Resource {
			return before, errors.New("a change made another request of this one")
		}
		after.Rev, after.Changed = before.Rev+1, now
		word, err := s.update(ctx, &before, &after)
		if err != nil {
			return before, failed("change request "+id, err)
		}
		switch word {
		case "ok":
			return after, nil
		case "gone":
			return before, approval.ErrNotFound
		case "fenced":
			return before, approval.ErrFenced
		case "final":
			return before, fmt.Errorf("a request that is %s cannot become %s", before.State, after.State)
		case "late":
			if late++; late > 2 {
				return before, approval.ErrDue
			}
		case "conflict":
			if err := pause(ctx, try); err != nil {
				return before, err
			}
		default:
			return before, fmt.Errorf("redis answered %q", word)
		}
	}
	return approval.Request{}, fmt.Errorf("change request %s in Redis: others keep changing it", id)
}

// pause waits for a random time, so that those who change one request at once do not collide again.
func pause(ctx context.Context, try int) error {
	select {
	case <-time.After(time.Duration(rand.Int64N(int64(min(try+1, 20)) * int64(time.Millisecond)))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) read(ctx context.Context, id string) (approval.Request, time.Time, error) {
	result, err := s.run(ctx, scriptRead, false, []string{s.key("request", id)})
	if err != nil {
		return approval.Request{}, time.Time{}, failed("read request "+id, err)
	}
	list, ok := result.([]any)
	if !ok || len(list) != 2 {
		return approval.Request{}, time.Time{}, fmt.Errorf("redis answered %v", result)
	}
	r, err := decode(id, list[1:])
	return r, micros(list[0]), err
}

func micros(v any) time.Time {
	n, _ := v.(int64)
	return time.UnixMicro(n).UTC()
}

func (s *Store) update(ctx context.Context, before, after *approval.Request) (string, error) {
	text, err := json.Marshal(after)
	if err != nil {
		return "", err
	}
	told := ""
	if after.NewsSince(before) {
		told = message(after)
	}
	unrecorded := 0
	if len(after.Outbox) > 0 {
		unrecorded = 1
	}
	deadline := after.Deadline().UnixMicro()
	if !after.State.Live() {
		deadline = 0
	}
	result, err := s.run(ctx, scriptUpdate, true, []string{
		s.key("request", after.ID), s.key("digest", after.Digest), s.prefix + "live", s.key("agent", agentKey(after.Agent)),
		s.key("resource", after.Resource), s.prefix + "unrecorded",
	}, after.ID, before.Rev, text, string(after.State), deadline, unrecorded, s.channel(), told, s.retain.Milliseconds())
	if err != nil {
		return "", err
	}
	word, _ := result.(string)
	return word, nil
}

// listDigest lists the live request of a digest. Every operation that needs approval asks for it, so it takes one round trip.
func (s *Store) listDigest(ctx context.Context, digest string) (approval.Page, error) {
	result, err := s.run(ctx, scriptLive, false, []string{s.key("digest", digest)}, s.key("request", ""))
	if err != nil {
		return approval.Page{}, failed("list requests", err)
	}
	list, ok := result.([]any)
	if !ok || len(list) != 0 && len(list) != 3 {
		return approval.Page{}, fmt.Errorf("redis answered %d values", len(list))
	}
	if len(list) == 0 {
		return approval.Page{}, nil
	}
	id, _ := list[0].(string)
	r, err := decode(id, list[1:])
	if errors.Is(err, approval.ErrNotFound) || err == nil && (r.Digest != digest || !r.State.Live()) {
		return approval.Page{}, nil
	}
	return approval.Page{Requests: []approval.Request{r}}, err
}

// List implements [approval.Store].
func (s *Store) List(ctx context.Context, f approval.Filter) (approval.Page, error) {
	if f.Digest != "" {
		return s.listDigest(ctx, f.Digest)
	}
	next, err := s.ids(ctx, &f)
	if err != nil {
		return approval.Page{}, failed("list requests", err)
	}
	var page approval.Page
	for looked := 0; ; {
		ids, err := next()
		if err != nil || len(ids) == 0 {
			return page, err
		}
		requests, err := s.getAll(ctx, ids)
		if err != nil {
			return approval.Page{}, err
		}
		for i := range requests {
			r := &requests[i]
			if r.ID == "" || f.Unrecorded && len(r.Outbox) == 0 {
				continue
			}
			if looked++; !page.Add(&f, r, looked) {
				return page, nil
			}
		}
	}
}

// ids returns a function that gives the ids which f may select, some at a time, and none at the end.
func (s *Store) ids(ctx context.Context, f *approval.Filter) (func() ([]string, error), error) {
	var result any
	var err error
	switch {
	case f.Due:
		result, err = s.run(ctx, scriptDue, false, []string{s.prefix + "live"}, f.Limit()+1)
	case f.Unrecorded:
		result, err = s.run(ctx, scriptUnrecorded, false, []string{s.prefix + "unrecorded"}, f.Idle.Microseconds())
	case f.OnlyLive():
		var live []string
		live, err = s.client.ZRangeByScore(ctx, s.prefix+"live", &goredis.ZRangeBy{Min: "-inf", Max: "+inf"}).Result()
		result = texts(live)
	default:
		return s.history(ctx, f.After), nil
	}
	if err != nil {
		return nil, err
	}
	list, _ := result.([]any)
	ids := make([]string, 0, len(list))
	for _, v := range list {
		if id, ok := v.(string); ok && (f.Due || f.After == "" || id < f.After) {
			ids = append(ids, id)
		}
	}
	if !f.Due {
		slices.SortFunc(ids, func(a, b string) int { return cmp.Compare(b, a) })
	}
	return chunks(ids), nil
}

func texts(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

const chunk = 100

func chunks(ids []string) func() ([]string, error) {
	return func() ([]string, error) {
		n := min(chunk, len(ids))
		some := ids[:n]
		ids = ids[n:]
		return some, nil
	}
}

func (s *Store) history(ctx context.Context, after string) func() ([]string, error) {
	limit := "+"
	if after != "" {
		limit = "(" + after
	}
	return func() ([]string, error) {
		ids, err := s.client.ZRevRangeByLex(ctx, s.prefix+"all", &goredis.ZRangeBy{Min: "-", Max: limit, Count: chunk}).Result()
		if err != nil {
			return nil, failed("list requests", err)
		}
		if len(ids) > 0 {
			limit = "(" + ids[len(ids)-1]
		}
		return ids, nil
	}
}

// getAll reads requests in one round trip. A request that is gone has no ID.
func (s *Store) getAll(ctx context.Context, ids []string) ([]approval.Request, error) {
	pipe := s.client.Pipeline()
	answers := make([]*goredis.SliceCmd, len(ids))
	for i, id := range ids {
		answers[i] = pipe.HMGet(ctx, s.key("request", id), "r", "c")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, failed("read requests", err)
	}
	requests := make([]approval.Request, len(ids))
	for i, id := range ids {
		var err error
		if requests[i], err = decode(id, answers[i].Val()); err != nil && !errors.Is(err, approval.ErrNotFound) {
			return nil, err
		}
	}
	return requests, nil
}

func (s *Store) channel() string { return s.prefix + "changes" }

func message(r *approval.Request) string {
	c := r.Change()
	return strings.Join([]string{c.ID, strconv.FormatUint(c.Rev, 10), string(c.State), c.Answer}, " ")
}

// Watch implements [approval.Store].
func (s *Store) Watch(ctx context.Context) (<-chan approval.Change, error) {
	sub := s.client.Subscribe(ctx, s.channel())
	if _, err := sub.Receive(ctx); err != nil {
		return nil, errors.Join(failed("subscribe to changes", err), sub.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	feed, changes := approval.NewFeed(ctx)
	messages := sub.ChannelWithSubscriptions(goredis.WithChannelSize(1000), goredis.WithChannelHealthCheckInterval(time.Second))
	go guard.Func("the watch over Redis", func() {
		defer cancel()
		defer sub.Close()
		for {
			select {
			case m, ok := <-messages:
				if !ok {
					return
				}
				feed.Put(changeOf(m))
			case <-ctx.Done():
				return
			}
		}
	})()
	return changes, nil
}

// changeOf reads a message. Anything else, such as the notice of a new subscription, gives the zero Change: some may have been
// missed.
func changeOf(message any) approval.Change {
	m, ok := message.(*goredis.Message)
	if !ok {
		return approval.Change{}
	}
	parts := strings.Split(m.Payload, " ")
	if len(parts) != 4 {
		return approval.Change{}
	}
	rev, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil {
		return approval.Change{}
	}
	return approval.Change{ID: parts[0], Rev: rev, State: approval.State(parts[2]), Answer: parts[3]}
}
