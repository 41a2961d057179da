// Package extproc is what Envoy calls: ext_proc, ext_authz and the access log, on one core. Its comment is the guided tour
// of the whole program, bottom up. Read it once from the top; after that, each package's own comment goes deeper.
//
// Countersign stands between AI agents and what they use. An agent's request comes to Envoy; Envoy asks this service
// before the target sees a byte; the service says no, or lets the request through with the target's own credential in the
// place of the agent's token, and takes protected values out of the answer. Whatever it says is on the disk first.
//
//	agent ──► Envoy ──────────────────────► target
//	            │ ▲  ext_proc or ext_authz, access log, ADS: gRPC on one socket
//	            ▼ │
//	          [Server] ── identity ── inspect/web ── gate ── redact
//	                                                 │ │ │
//	                         console ── approval ────┘ │ └── evidence ──► otlp ──► collector
//	                            ▲                    policy
//	                          people
//
// # Threat model
//
// The agent is the attacker. It holds a valid token, chooses every byte of its requests, can be told what to do by whoever
// writes what it reads, and tries again for ever. It wants to do what policy denies; to have one thing judged and another
// done; to read what is redacted, or to learn of it from a length or a comparison; to act as somebody else; to act without a
// record; and to make the gateway so slow or so large that somebody turns it off.
//
// Each other part is trusted with something and no more: Envoy with asking, the policy's author with what is allowed, an
// approver with one answer to what they were shown, the issuer with who an agent is, the target with its own data, the
// collector with keeping what it was sent. SECURITY.md has them one by one, what each can do if it is hostile, and which
// test shows where that ends.
//
// The rules that follow from it hold in every package. What cannot be read without doubt is refused. The zero value
// of every type refuses, and so does every error. Only a [gate.Gate] can make a ruling that allows, and only with a record.
// Packages that read what an agent or a target sent do no I/O: bytes in, values out, so that they can be fuzzed.
// JSON becomes a tree in one place, package [github.com/countersign/countersign/extproc/strict].
//
// # The gate
//
// Package [github.com/countersign/countersign/extproc/gate] is the core, and imports the standard library only. A
// [gate.Operation] is who ([gate.Principal]) wants what of which resource ([gate.Detail]), in one canonical form: the RFC
// 8785 JSON of [gate.Operation.Input] is what policy judges, and [gate.Operation.Digest] is an HMAC-SHA-256 of it, because an
// operation can hold secrets that are easy to guess. What may differ between two attempts at the same operation is not in
// the digest: time and token are [gate.Context], and what the target gets too, such as trace context, is Volatile of the detail,
// which policy sees in its place.
//
// [gate.Gate.Decide] is the one door. It asks policy, writes an operation.decided record, waits until the record is on the
// disk, and only then returns a [gate.Ruling] that may allow. Any error on the way refuses: of the policy, of the digest,
// of the journal. [gate.Gate.Refuse] records what could not even be judged; [gate.Gate.Finish] records how an operation
// ended; [gate.Gate.Unknown] says that nobody can tell. A Ruling's fields are unexported: TestOnlyAGateMakesAnAllowingRuling
// reads the source to see that nothing else sets them.
//
// A rule that asks for a person ([gate.Ask]) is dealt with inside Decide, between policy and record, so that there is no
// second way to be allowed. [gate.Approvals] is where people are asked, as the gate needs it. With a live grant for the
// operation's digest, Decide asks policy again, with the grant in its context; where policy still lets the operation pass the
// grant is spent, and the ruling allows. Without one a request is opened, or joined, and the ruling refuses with
// approval-pending ([gate.Ruling.Pending] has the request). Waiting is not the gate's: whoever can wait does, and then calls
// [gate.Gate.Resume], which refuses in the person's words where they rejected it, and otherwise is Decide once more.
//
// # Approvals
//
// Package [github.com/countersign/countersign/extproc/approval] keeps what people are asked. approval.Desk has one method for
// each thing that can happen: Ask, Decide, Spend, Left, VoidOthers, and Wait, which holds an operation without asking the
// store again. A request is bound to the digest of the operation, the digest of its rules, the ask rules, and the
// digest of its card; another of any of these is another request. The card (approval.CardDigest) is rendered once, when the
// request is opened: what will run in policy's own words, every value of the operation in a row of its own, and what could mislead
// made visible (approval.Visible). What people must not see is redacted in it, by the rules that redact answers.
//
// An approval.Store does one thing: change a request by compare-and-swap, by its own clock. There are two, a file of one
// gateway (embedded) and a Redis that several share (redis). All rules are the desk's, so that stores cannot differ in them,
// and package approvaltest holds every store to one contract: a model, random interleavings, a thousand identical operations
// at once. Each change carries its record: both are stored in one write, the record goes to the journal, and only then is the
// change acknowledged. A spend that a crash cut short let nothing through; it is spent all the same.
//
// Package [github.com/countersign/countersign/extproc/approval/question] is the desk as the gate needs it: what people see of an
// operation, and what its agent did before.
//
// Package [github.com/countersign/countersign/extproc/console] is where people answer, as pages and as an API, under their
// own login at their own issuer; it decides nothing itself. Package webhook rings a bell elsewhere.
//
// # Reading requests
//
// Package [github.com/countersign/countersign/extproc/inspect/web] reads an HTTP request into an operation's detail. A
// [web.Inspector] is fed the head, the chunks and the trailers, and says at the first doubt that it cannot read this: an
// encoded slash, a dot segment, two Content-Types, a method override, JSON with a name twice. It does not tidy, because
// the request is forwarded as it came, and a target may tidy differently. A body that looks like JSON is parsed as JSON
// whatever it is called, lines of JSON are read value by value, multipart is taken apart, and a compressed body is read without its coding; a body that is none of these is policy's to rule on by type, size and SHA-256.
// FuzzChunkSplit holds that the result does not depend on how the bytes were cut.
//
// [web.ReadResponse] reads the head of an answer and says whether it can be redacted at all: a partial answer, or one of
// a switched protocol, cannot. The agent's Accept-Encoding does not pass, and where a target compresses all the same, package
// [github.com/countersign/countersign/extproc/inspect/coding] takes the coding off as the bytes come; the answer goes on without it.
//
// # Policy
//
// Package [github.com/countersign/countersign/extproc/policy] is Rego, and the only importer of OPA. A policy.Set is loaded
// and checked whole; it never changes, and a reload makes another. Its function combine is all there is to how rules outrank
// each other: an error denies, else any deny denies, else any ask asks, else any allow allows, else nobody said anything and
// that denies. Since Rego is silent about most mistakes, many are caught when it is loaded: a misspelt member of the input,
// a set called denies, a deny that is no set. A built-in that fails while it is evaluated denies.
//
// There is no network, clock or random number in a policy, so a verdict is a function of operation and policies. With the
// policy of the design on two shared cores an evaluation takes 14 µs, 0.7 µs where the verdict is remembered, and the same
// beside 10 packages as beside 1,000 (BenchmarkEvaluate).
//
// # Redaction
//
// Package [github.com/countersign/countersign/extproc/redact] takes values out of JSON, event streams and text as they
// flow. [redact.Compile] makes a plan of what policy said; [redact.Plan.Stream] is one body of it. Paths name values that
// are certain to be there and are exact: FuzzNonInterference holds that two bodies that differ only in named values come
// out as the same bytes. Detectors are the net below, for what nobody expected in a note, and can be wrong both ways. What
// cannot be read with certainty ends the stream with a [redact.Withheld]; nothing more of it is passed on.
//
// Memory is bounded by the limits in [redact.Options], whatever the size of the body.
//
// # Evidence
//
// Package [github.com/countersign/countersign/extproc/evidence] is the journal: canonical JSON lines, each with the
// SHA-256 of the one before, in segments, under a Merkle tree (RFC 6962) whose root is signed every few seconds.
// evidence.Journal is the gate's Recorder; its Append returns when the line is synced. One goroutine writes for all who
// wait, so 64 callers share a sync: 3,000 records a second with one writer, 90,000 with 64, at 0.3 to 0.6 ms a sync
// (BenchmarkAppend). A write that fails is undone and everything is refused until one works; a sync that fails ends the
// journal until a restart, because the kernel may have dropped the data and will not say so twice. After a crash the next
// start writes an operation.unknown for each allowed operation without an end: a gap is visible.
//
// evidence.Verify needs the files and a public key, and nothing of this program: the package comment has the verifier in
// thirty lines. What it cannot show alone is that an owner of both the files and the key did not write another history. For
// that the checkpoints leave the machine: package [github.com/countersign/countersign/extproc/evidence/otlp] sends every
// record and checkpoint to an OpenTelemetry collector, an operation as a span in the agent's own trace, by a cursor over
// the journal, so that nothing is lost when the collector is away. What it
// rejects is listed, and sent again on command.
//
// Files of a data directory are opened by package [github.com/countersign/countersign/extproc/datafile], which follows no link
// and waits for nothing: verifying is for copies that nobody vouches for.
//
// # Identity
//
// Package [github.com/countersign/countersign/extproc/identity] turns the one credential of a request into a principal, or
// into an [identity.Refusal] with a reason that is recorded. [identity.Verifier.Verify] reads as its list of checks, from the
// shape of the token to revocation. A principal is the pair of issuer and subject, never a name that can be given to
// somebody else; the name that a token claims is recorded and shown beside that pair, and decides nothing. Keys are fetched in the background, and now and then because of a token that none verifies, which waits
// for that: an agent cannot have us hammer its issuer, and an issuer can change its keys as it likes. They serve on
// while the issuer is away, up to a limit. A token costs 62 µs (RS256) when it is first seen and 0.5 µs after that.
//
// # The configuration
//
// Package [github.com/countersign/countersign/extproc/config] is one YAML file read strictly into one struct whose comments
// are the manual (config.Reference prints it). All problems are reported at once, with their lines. What weakens a
// deployment has insecure in its key.
//
// # The life of an operation
//
// Package [github.com/countersign/countersign/extproc/lane] is what happens to every operation, whatever its kind. A lane.State
// is everything that a reload replaces; lane.Lane.Swap swaps one pointer, and an operation loads it once, so that it is judged by
// one configuration from its first byte to its last. A lane.Attempt is one operation: it says who acts, is decided, is held
// while people are asked, and ends with one record. Where only Envoy's access log can tell how it ended, it waits for that. What
// operations take of the memory is in one account, shared fairly among agents.
//
// Where the ruling is pending the operation is held: Envoy has sent nothing on. A hold waits for the desk to say that the request
// has ended, takes up the configuration and policy of then, and has the gate rule again on the same operation; what goes on are
// the bytes that were judged, which never left. Where the token has expired or is revoked by then, the agent is told that, and
// that an approval stands for the identical request with a new token. A person's no is told whatever else has changed. A hold
// ends after approvals.hold, with the client, with the caller's deadline and
// with the gateway; the request for approval stays open, and the agent is told to send the identical one again.
//
// What is under way goes on when the token expires, and with end_with_token it is broken off then, and when a reload revokes it.
//
// lane.Lane.Drain refuses what is new and waits for what is under way.
//
// # The services
//
// This package is what Envoy calls. A state says what Envoy is to carry out, and a call what Envoy does: whether answers come by,
// and by a fingerprint everything else that a decision relies on. Where they differ, after a reload that Envoy has not heard of
// or with a file that is old, nothing is allowed.
//
// [Server.Process] is one HTTP request, one ext_proc stream. Envoy names the resource in the stream's gRPC metadata, per
// route, where no client can write. The service takes in the whole request, decides, and only then answers the first
// message: until then Envoy has sent the target nothing. (A resource with body: stream is decided on the head; policy can see
// that it is.) What goes on is the bytes that were judged, without identity headers, with the target's credential, and
// with the exact length. Where policy redacts, the answer's head is kept back until the redacted body is whole, has 64 KiB or is
// 200 ms old, so that what must be withheld is a proper 502 where that is still possible; after that the stream is broken
// off, and the rest never passes. A redirect or an error keeps its status and head, and has a note for a body. Streams (event
// streams, NDJSON, a watch of Kubernetes) go at the first value. With a redacted answer
// pass the header fields of a list that package web has, and of those that are free text the ones that repeat nothing of what was
// taken out of the body, which is known once the body is whole. Where policy does not redact, answers pass as they come,
// counted and hashed. In either case the target's own URLs become those by which the agent came ([web.Turn]): in header fields,
// and in JSON, events of it too, where the resource names paths. What becomes of the target's
// cookies package [github.com/countersign/countersign/extproc/inspect/cookie] says, and package
// [github.com/countersign/countersign/extproc/inspect/echo] finds the target's credential in an answer that shows it.
//
// A request that came by what Envoy carried out before is not released by a hold: it is refused.
//
// [Server.Check] is the same for ext_authz, which sees no answers: a ruling that redacts is refused there.
//
// [Server.StreamAccessLogs] takes what Envoy did. Each entry becomes a transit record, so that evidence.Verify can hold what
// passed against what was decided, and it ends the operations whose answers do not come by here or whose streams broke off.
//
// The messages of all three are those of package [github.com/countersign/countersign/extproc/wire], which has of what Envoy sends
// what is read here and nothing else, and takes it for what protobuf's own decoder does.
//
// What HTTP carries is of more than one kind, and each reads and refuses in its own way. A [Reader] makes an operation of a request,
// and says what of it goes to the target; a [Refuser] writes what the agent gets in the place of an answer. [HTTP] has both, and
// the kind sets them. Here is only what Envoy calls: carried.go has the two interfaces, http.go and outgoing.go ext_proc's requests,
// response.go, fields.go and lost.go its answers, authz.go and connect.go ext_authz, clock.go its time, accesslog.go and targets.go
// what Envoy tells afterwards, operation.go, weight.go and hold.go what all of these share.
//
// Package [github.com/countersign/countersign/extproc/problem] writes refusals as application/problem+json, and for gRPC with its
// status, in words that a developer or a language model can act on, and never a policy's internals. A panic is one operation's: that is refused, and
// recorded as the gateway's failure. Package [github.com/countersign/countersign/extproc/guard] keeps one in a goroutine or a
// timer from ending the process.
//
// # What changes after the judgement
//
// The target gets the request that was judged, but for this. The right column says why what runs is still what was judged.
// TestWhatChangesAfterTheJudgement sends every field that any table here knows, by both attachments, compares what the
// target received, and holds the difference to this table, of which it reads these very lines.
//
//	(identity)            removed  both       policy never saw it, and a target that believes it would have somebody else act; what a resource opens is judged, and passes
//	(credential)          set      both       the resource's own, which is the same for all its operations
//	host                  set      both       the target's name; the agent's is in the input as host and authority
//	x-request-id          set      both       Envoy's own, before the judgement: policy sees it in its context
//	x-forwarded-proto     set      both       Envoy's own, before the judgement: how the agent connects
//	x-envoy-*             removed  both       before the judgement: it would steer Envoy, and no target is to see it
//	connection            removed  both       of one hop; what it names beside hops is refused
//	keep-alive            removed  both       of one hop
//	proxy-connection      removed  both       of one hop
//	transfer-encoding     removed  both       of one hop; the bytes of the body are the same
//	te                    removed  both       of one hop; "trailers", which asks the target for some, stays and is judged
//	trailer               removed  both       announces trailers, and says nothing
//	http2-settings        removed  both       of one hop
//	upgrade               removed  both       where the resource accepts none Envoy drops it; one that it accepts stays, and is judged
//	expect                removed  both       100-continue is between the agent and Envoy, which answers it
//	content-length        set      both       that of the body that was judged whole
//	countersign-approval  removed  both       speaks to the gateway, of which approval is meant; it binds nothing
//	cookie                set      ext_proc   with cookies: session what the agent sent, opened: nobody else's opens
//	accept-encoding       removed  ext_proc   where answers are read: the same answer, in a form that can be
//	a-im                  removed  ext_proc   where answers are redacted: the answer whole instead of a difference
//	want-*                removed  ext_proc   where answers are redacted: the answer without a digest, which would not pass
//	if                    removed  ext_proc   where the answer to a GET or HEAD is redacted: the answer whole; other methods are refused with it
//	if-*                  removed  ext_proc   as if
//	*-if-*                removed  ext_proc   as if
//	range                 removed  ext_proc   as if
//	x-ms-range            removed  ext_proc   as if, but for other methods, where it says what is written, and stays
//	(trailers)            removed  ext_authz  it does not show them: policy saw none, and the target gets none; ext_proc does so where a body streams
//
// # Kinds of resources
//
// Package [github.com/countersign/countersign/extproc/kind] says what the program asks of a kind of resource: its keys, what policy
// and people see of an operation, what Envoy is to have, what a collector is told. A kind is a folder there and one value, and the
// command has a list of them. Package [github.com/countersign/countersign/extproc/kind/http] is that of APIs, and package
// [github.com/countersign/countersign/extproc/kind/tcp] the smallest: CONTRIBUTING.md shows with it how one is added.
//
// A protocol that Envoy cannot read is read here. Package [github.com/countersign/countersign/extproc/kind/postgres] is PostgreSQL:
// Envoy passes the connection on to a unix socket of the gateway's, and package
// [github.com/countersign/countersign/extproc/kind/postgres/session] is the other end of it: TLS, the token as the password, a session at the
// target with the gateway's own credential, and each statement an operation. Package
// [github.com/countersign/countersign/extproc/kind/postgres/statement] says what a statement does, by PostgreSQL's own parser and the
// server's catalog (package [github.com/countersign/countersign/extproc/kind/postgres/catalog]), and package
// [github.com/countersign/countersign/extproc/kind/postgres/mask] takes redacted columns out of its rows. Package policies has a library that puts statements into words, for rules to be written with.
//
// # Envoy's configuration
//
// Package [github.com/countersign/countersign/xds] makes Envoy's listeners, routes, clusters and secrets from the same
// configuration and serves them over ADS, or prints them as one file. The filter is on for the listener and a route can
// only name its resource, so a forgotten route is refused and not open. Nothing is sent twice and nothing is rewritten after
// it was judged. Its CheckFile takes any Envoy file apart and says where it would let a request pass unasked.
//
// # The command
//
// Command [github.com/countersign/countersign/cmd/countersign] wires: metrics, journal, policies, verifier, server, ADS,
// admin interface, approvals and their console, courier, and with --envoy an Envoy that is started again when it ends and
// is stopped last. With a bad configuration, policy or journal it does not start; while an issuer's keys are missing it is
// not ready. A reload (SIGHUP, or a file that changed) builds all of the new state, Envoy's too, records it, replaces the old one
// and then tells Envoy; where one of the first fails the old one stays, here and there. check, policy, envoy and evidence are the tools around it, which work on files and need no
// running gateway; approvals is a client of the console's API (package
// [github.com/countersign/countersign/extproc/console/client]).
//
// What the command wires has a package each. Package [github.com/countersign/countersign/extproc/custody] refuses files that
// somebody else on the machine could change. Package [github.com/countersign/countersign/extproc/watcher] tells when what they say has changed.
// Package [github.com/countersign/countersign/extproc/supervisor] runs Envoy.
// Package [github.com/countersign/countersign/extproc/memory] says how much of the machine's memory may be taken, and keeps garbage low
// while operations wait. Package [github.com/countersign/countersign/extproc/listener] has the sockets, and bounds what a client of one takes.
// Package [github.com/countersign/countersign/extproc/admin] is what whoever runs the gateway sees of it: health, readiness and metrics.
//
// What others wrote is printed by package
// [github.com/countersign/countersign/extproc/terminal], so that it does nothing in a terminal.
//
// # Tests
//
// Package [github.com/countersign/countersign/extproc/extproctest] starts the real parts: Envoy, a collector, an OpenID
// provider, the binary itself, and a target that records what it was sent and misbehaves on demand. Package
// [github.com/countersign/countersign/extproc/extproctest/story] plays a case from a file that a stranger can read, through
// all of them: a policy, a conversation, the records that must be left. cmd/countersign/testdata/stories has them, and
// examples/http is one with a configuration around it. examples/postgres has the commands of its page run, and what they print held
// to what is there; examples/demo plays both in a terminal.
//
// # What is not here yet
//
// Git, MCP. The configuration knows some of their keys; nothing pretends to do their work.
package extproc
