// Package approval keeps what people are asked to approve: requests, decisions, quorum, and grants that are spent once.
//
// # One request
//
// [Desk.Ask] opens a request for one operation that policy asks about, or joins the one that is open for the same digest.
// People decide on it with [Desk.Decide]. When every ask rule has its quorum the request is a grant, which [Desk.Spend]
// gives to exactly one operation. [Desk.Wait] holds an operation until then, and reads the store only when the request changes.
//
//	pending ─► approved ─► spent
//	   │           └─────► expired, voided
//	   └─► rejected, expired, voided
//
// A request is bound to the keyed digest of the canonical operation (gate.Operation.Digest), the digest of the rules that it depends
// on, the ask rules themselves (a rule may want two people at night), the people whose operation it is, and what the resource
// demands of an approver's sign-in. A change of any of these makes a new request. A decision is bound to the card that it names by
// its digest.
//
// # Time
//
// Only the store's clock counts: a gateway whose own clock is wrong neither shortens nor extends anything. A request lives
// for its TTL from when it was opened; a grant for its own TTL from when the last approval was stored. Once the deadline of a
// request's state has passed, a store only lets it be closed.
//
// # Evidence
//
// Every change carries its record. The line is stored with the change in one atomic write, in the request's outbox. Then it is
// appended to the journal, and only when it is durable there is the change acknowledged. So a crash can come at any point:
//
//   - before the store's write: nothing has happened;
//   - between the two: the change stands, nobody was told of it, and its record is still in the outbox. [Desk.Run] appends it, on
//     this gateway after a restart or on another one. If the change was a spend, it let nothing through;
//   - after the journal's write: the record may be appended a second time. It names its event (`event`: request id and
//     revision), so that a reader counts it once.
//
// A grant is not spent before the records of its decisions are in the journal of the gateway that spends it, whichever gateway
// made them. So with several gateways the same event can stand in two journals.
//
// # News
//
// People are also told what no record or decision depends on: who waits for the answer now ([Request.WaitingNow]), and how the
// operation ended that has spent the grant ([Spend]; the proof is its record operation.finished, which comes first). The store is
// told behind the operations, four times a second at most, and what a gateway has not told when it dies is lost.
//
// # Trust
//
// The store is trusted with the requests: whoever can write to it can approve. It is not trusted to remember. A change that a
// failover or a restored backup takes back is noticed by the gateways that saw it ([ErrRolledBack]), and at a start by the journal
// ([Desk.HoldAgainst]). A store that cannot be sure whether a grant was spent says so ([ErrFenced]). Each of these voids the
// request. Callers are trusted to have verified the [Approver] and the operation's principal, and to have redacted what the card
// shows.
package approval
