// Package evidence is the journal: what the gateway decided, and what came of it, in files that can be verified by
// someone who trusts neither the gateway's operator nor this program. [Journal] writes it and is the gate's
// [gate.Recorder]. [Verify] checks all of it, [Records] reads it, [Prove] proves one record. Package otlp sends it to a
// collector.
//
// # Trust
//
// Whoever has the data directory can remove records that no collector has yet, and with the key in it can write another history.
// But they cannot make that history agree with a checkpoint that was seen elsewhere: every checkpoint goes to the collector too,
// and [VerifyOptions].Checkpoint checks a journal against one. Without such a checkpoint, and with a public key from the same
// directory, verifying finds mistakes and outsiders' edits, but not the owner's. Records after the last checkpoint (a few seconds'
// worth) are chained but not signed yet; a report counts them.
//
// A data directory that is restored from a backup opens like any other. Nothing in it can tell that it is old, and refusing it
// would keep a gateway down after an honest disaster. What was recorded since the backup is lost here, and the next records get
// numbers that were used before, so the collector has two of each. After restoring a backup, check the journal against the
// collector's last checkpoint: it fails at the first record that was lost. To go on without a contradiction, keep the restored
// directory for verification and start with an empty one.
//
// # Format
//
// A data directory holds
//
//	lock                           held by the gateway that runs (flock)
//	keys/evidence.key, .pub        Ed25519, as golang.org/x/mod/sumdb/note spells keys; only .pub is needed to verify
//	keys/digest.key, redact.key    32 bytes in hex
//	journal/<20 digits>.jsonl      segments, named after the number of their first record
//	journal/checkpoints            one line of JSON per checkpoint: {"note":"<signed note>"}
//	journal/resume.json            makes the next start faster; proves nothing and may be missing
//	journal/prepared               the next segment, before it has records and a name; only while a gateway runs
//
// A segment holds one record per line, ended by a newline. A line is one JSON object in canonical form (RFC 8785, with
// the one departure that [gate.AppendJSON] describes), with exactly these members, in this order:
//
//	body   object   what the record says; see gate.Decision, gate.Outcome
//	node   string   which gateway
//	op     string   operation id, or ""
//	prev   string   SHA-256, in lower-case hex, of the line before without its newline; 64 zeros in record 1
//	seq    number   1, 2, 3 … across segments, without a gap
//	time   string   UTC, RFC 3339 with nine digits of fraction
//	type   string   operation.decided, operation.finished, …
//	v      number   1
//
// A checkpoint is a C2SP tlog-checkpoint: three lines of text (the key's name, the number of records, the root hash in
// base64) as a signed note. The root is that of the Merkle tree of RFC 6962, section 2.1, whose leaves are the lines
// without their newlines, in order. So the usual tools for transparency logs (proofs of inclusion and consistency,
// witnesses) apply to a journal as it is. A new journal begins with a checkpoint over no records.
//
// The last segment can end in zero bytes, which later records are written over. No record has a zero byte, so the first one ends
// what is written. Records that were written at once have one time, and those that were written later a later one, unless an alarm
// says that the clock was set back. A write that was cut off can leave any of its sectors of 512 bytes, and zeros in the place of the
// others; so whole records may follow a hole. They are no part of the journal if the hole begins with the write or with a sector,
// ends with one, and all of them have one time. Anything else behind a hole is damage.
//
// # A verifier in thirty lines
//
// This is all that [Verify] does to show that a journal is whole, for whoever would rather write it again than believe it.
//
//	 1  notes := every line of "checkpoints" that ends in a newline: exactly {"note": TEXT}. None: fail.
//	 2  for each note: split TEXT at its first blank line into what is signed (with the newline that
//	 3    ends it) and signature lines "— NAME BASE64". BASE64 is 4 bytes of key id and 64 of Ed25519.
//	 4    Verify the signature with the public key. Anything else: fail at that line.
//	 5    The signed text is ORIGIN, SIZE, ROOT. ORIGIN is NAME. SIZE is above that of the note before.
//	 6  due := 1;  before := 64 zeros;  clock := the beginning of time;  edge := empty list
//	 7  hold(0)
//	 8  for each *.jsonl file, in the order of names:
//	 9    the name is due in 20 digits, else fail: a segment is missing or was put in
//	10    for each line, without its newline:
//	11      (in the last file, a line that has a zero byte or no newline is one being written: stop there,
//	12        and fail if a whole record comes after it that is no part of a write that was cut off)
//	13      it is canonical JSON: the eight members, in order, and no other;  v is 1
//	14      seq is due, else fail: a line was removed, repeated or moved
//	15      prev is before, else fail: this line or the one before it was changed or is from elsewhere
//	16      time is not before clock, but for a record of type alarm whose body has "kind":
//	17        "clock_stepped_back", which is how a journal says that its clock was set back
//	18      before := hex(SHA-256(line));  clock := time
//	19      push(SHA-256(0x00 + line))
//	20      hold(due);  due := due + 1
//	21  each note was held by now, else fail: records are missing at the end
//	22  records after the last note's SIZE are not signed yet: say how many; over a minute's worth, fail
//	23
//	24  push(h):  append (1, h) to edge; while the last two entries (n, a), (n, b) have the same n,
//	25              replace them by (2n, SHA-256(0x01 + a + b))
//	26  root():   SHA-256 of nothing where edge is empty; else h of the last entry, and from there to the
//	27              front: h := SHA-256(0x01 + entry's hash + h)
//	28  hold(n):  if a note has SIZE n: ROOT is base64(root()), else fail: a record up to n, and after the
//	29              last note that held, was changed
//	30  a note from elsewhere, the collector's say, is held in the same way
//
// # What can follow what
//
// A journal that is whole can still say what cannot have happened: an operation that ended twice or was never decided, one
// approval that let two operations through, a grant that was spent without its approvals or after it expired. [Verify] checks each
// record of an operation, of a request for approval and of the gateway against one table (legal, in legal.go), and reports what is
// not in it as a finding. A grant that was spent and let nothing through, because of a crash or a failure that is on record, is
// legal, and is reported as a gap. If gateways share a store of requests (gateway.started says `approvals: shared`), each journal
// has only a part of what was asked and answered; then only what contradicts the journal itself is a finding.
//
// # Durability
//
// One goroutine writes. It takes all records that wait, lays them out as one chain, writes them with one call and syncs
// once; then their callers get their answers. So an Append returns only for what is on the disk, and 64 callers
// cost one sync and not 64. Bodies are encoded and checked by the callers.
//
// Records are written in place. A second goroutine, the preparer, writes zeros behind them, 1 MiB ahead in steps of 256 KiB, and
// syncs these; and when the last segment is prepared to its end, it begins the next one as journal/prepared. Records are written over
// the zeros, so that their sync has nothing to tell the file system: no new length, no new blocks. Where nothing is prepared, just
// after a start, or where the disk has no time or no room, records are appended, and [Journal.Appended] counts these writes. A segment
// is cut to its last record, and synced, before the next one gets its name, and at a stop. So only the last one can end in zeros, and
// a closed one is plain lines. What a crash leaves behind the last record is told from damage as Format says.
//
// What happens when that fails is what this package is for:
//
//   - A write that fails, in whatever way (nothing stored, half a line, all of it, a full disk), is undone: the
//     segment is cut back to the last durable byte, with what was prepared, and synced before anything else is written. The callers
//     get [ErrRefusing]. The next write is tried 100 ms later at the soonest, for the next caller or by the journal itself. When one
//     works, an alarm record before it says how many records were refused, since when and why, and each allowed operation
//     whose outcome was among them gets an operation.unknown. On a full disk what was prepared is given back first, and the write is
//     tried once more. Nothing is prepared for 10 s after a failure.
//   - A sync that fails, or an undoing that fails, ends the journal until a restart: [ErrFailed]. After a failed fsync
//     Linux may drop the data and report success the next time, so asking again proves nothing. For the same reason
//     a start writes once more what no checkpoint covers, and syncs it, before it chains a record to it.
//   - A caller that gets an error refuses its operation. Its record may still be there: the sync failed and yet the line is on the
//     disk, or the caller stopped waiting. If that record is a decision that allows, it gets an operation.unknown: nothing reached
//     the target, but the journal cannot know that.
//   - A file of the journal that somebody else deleted, replaced, cut or wrote (behind its last record, where a record is written
//     next) is noticed at the next commit, or at the next heartbeat where there is none, and ends the journal too: a sync of a file
//     without a name proves nothing. Older segments are not looked at; [Verify] finds what is missing of them.
//   - A full disk that is only noticed at the sync (some network file systems) counts as a failed sync, also of zeros: they are in a
//     file that has records.
//
// Only decisions that allow get an operation.unknown. One that denies or asks let nothing through, so nothing is missing without
// its operation.finished.
//
// # What a start does
//
// It takes the lock. It verifies the last checkpoint's signature and the tree's root at it. It verifies the chain from the last
// checkpoint, the beginning of the last segment or the oldest decision without an outcome, whichever is first; the whole journal
// only if resume.json does not fit. What a crash left of a write it removes, and records that as an alarm; zeros alone are no alarm.
// It writes an operation.unknown for each allowed operation without an outcome. All of that precedes the gateway.started record, so a
// verifier finds nothing open there. If the journal is missing but its key is not, the first record of the new journal is an alarm.
//
// Damage that a crash cannot explain is an error that names file, line and record, and changes nothing: a bad line before a good
// one, zeros over what was durable, a missing segment, a journal that ends before its last checkpoint, a missing key.
//
// # Measured
//
// Appended, on 2 cores and a disk whose sync takes 0.25 to 0.6 ms, records of 700 bytes (BenchmarkAppend):
//
//	writers   records/s   records a sync   allocations
//	      1       4,000                1             6
//	     16      43,000             15.7             2
//	     64      98,000               50             2
//
// In place, measured later, and for one writer: 7,000 to 8,100 records a second where appending gave 5,100 to 5,400 in the same run;
// p50 113 to 137 µs against 175 to 182, p99 214 to 224 against 311 to 348, and 70 to 75 µs of the process's own processor time a
// record against 98 to 102, some 30 of which are the program's.
//
//	a write of 2,800 bytes and its sync             p50      p99   own processor time
//	appended                                     190 µs   407 µs               103 µs
//	over a file filled with zeros                 96 µs   183 µs                55 µs
//	over zeros prepared in steps of 256 KiB       99 µs   225 µs                63 µs
//	in steps of 1 MiB                            104 µs   204 µs                67 µs
//	while another file gets steps of 256 KiB     113 µs   311 µs                70 µs
//
// So the preparer lengthens the file that is written to, which disturbs records less than another file does. And nobody may ask for
// the times of that file at each commit: since Linux 6.13 the next write then has to note a new time in the inode, which cost all that
// writing in place spares. datafile.Look asks for the length alone.
//
// What counts is how many records share a sync. Without queue.gather 16 writers got 8 into each, because the first one to come
// back took the disk for itself. Encoding and checking a body takes 1.1 µs and allocates nothing, in the caller's goroutine; the
// writer's goroutine hashes each line twice, for the chain and for the tree. Verifying runs at 230,000 records a second.
//
// Behind Envoy callers do not come back at once: the rest of a request takes longer than a sync. With 16 connections, and a
// service that does nothing but Append, 3.8 records shared a sync. A sync costs 90 µs of processor time here and 60 more
// in the kernel's own threads, however many records share it, and callers that are answered together cost Envoy and gRPC fewer
// wake-ups. Waiting for half of the callers (pace) makes it 6 records: Envoy's time fell from 186 to 171 µs a request, the
// service's (with load and target) from 184 to 157, and 4,170 requests a second became 4,700. Waiting for 12 of the 16
// saved little more and left the processors idle. At 1,000 a second the writer waits for nobody.
//
// What a sync costs: with the journal on tmpfs, where it is free, the gateway decides a quarter to a third more requests a second
// from 16 connections, and adds 0.5 ms instead of 1.1 at the median of 1,000 a second.
package evidence
