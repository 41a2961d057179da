// Package approval keeps what people are asked to approve: requests, decisions, quorum, and grants that are spent once.
//
// # One request
//
// [Desk.Ask] opens a request for one operation that policy asks about, or joins the one that is open for the same digest.
// People decide on it with [Desk.Decide]; when every ask rule has its quorum the request is a grant, which [Desk.Spend]
// gives to exactly one operation. [Desk.Wait] holds an operation until then, without asking the store again and again.
//
//	pending ─► approved ─► spent
//	   │           ├─────► expired, voided, withdrawn
//	   └─► rejected, expired, voided, withdrawn
//
// A request is bound to four things, and a change of any of them makes a new request: the keyed digest of the canonical
// operation (gate.Operation.Digest), the digest of the rules that it depends on, the ask rules themselves (a rule may want two
// people at night), and the card: what a person decided on is the card whose digest the decision names.
//
// # Time
//
// Only the store's clock counts: a gateway whose own clock is wrong neither shortens nor extends anything. A request lives
// for its TTL from when it was opened; a grant for its own TTL from when the last approval was stored. A store does not
// make a change, other than to close the request, once the deadline of the state that it would change has passed.
//
// # Evidence
//
// Every change carries its record: the line is stored with the change, in the request's outbox, in one atomic write; then
// it is appended to the journal, and only when it is durable there the change is acknowledged. So a crash can come at
// any point:
//
//   - before the store's write: nothing has happened;
//   - after it, before the journal's: the change stands and was acknowledged to nobody; its record is still in the outbox.
//     [Desk.Run] appends it, on this gateway after a restart or on another one. A spend of that kind let nothing through;
//   - after the journal's: the record may be appended a second time. It names its event (`event`: request id and
//     revision), so that a reader counts it once.
//
// A grant is not spent before the records of its decisions are in the journal of the gateway that spends it, whoever
// made them. With several gateways the same event can therefore stand in two journals.
//
// # Trust
//
// The store is trusted with the requests: whoever can write to it can approve. It is not trusted with remembering: what
// a failover or a restored backup takes back is noticed by the gateways that saw it ([ErrRolledBack]), at a start by what the
// journal tells of it ([Desk.HoldAgainst]), and a store says of a grant when it cannot be sure that it was not spent
// ([ErrFenced]); all of these void the request. Callers are trusted to have verified the [Approver] and the operation's
// principal; what the card shows of the operation is redacted by the caller.
package approval
