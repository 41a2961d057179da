// Package redis is the approvals of several gateways, in one Redis: a single server, a primary that Sentinel watches, or a
// cluster.
//
// Every change is one Lua script, which Redis runs whole or not at all; all keys of a store have one hash tag, so in a
// cluster they are on one node. A script reads the server's clock, holds a change to the deadline of the state that it
// changes, keeps the indexes, and publishes the change, so that gateways wake without asking. A gateway that has to
// subscribe again tells its waiters to read again.
//
// # What a failover can lose
//
// Redis answers before its replicas have a write, so a failover can take back what was answered. Three things stand
// against that; the second alone is enough for "never twice".
//
//  1. Options.Replicas: a change counts only when that many replicas have it (WAIT on the same connection). With fewer the
//     error is approval.ErrUncertain and nothing is acknowledged. With as many as there are, no acknowledged change is
//     lost when the primary fails. The primary that a partition has cut off cannot make a change count.
//  2. The fence: an approval is stored with the run id of the server that took it, and only that same run of that same server
//     can make it spent. After a restart or a failover nobody can say whether a grant was spent in what was lost, so it
//     is not: it is voided and asked again. People see that; no operation runs twice, whatever Options.Replicas is.
//  3. Gateways remember the revisions that they saw (approval.ErrRolledBack): a rejection or an approval that was taken back
//     is noticed by those who saw it, voids its request and raises an alarm.
//
// A single Redis should have appendonly yes. With appendfsync everysec a crash of its machine loses up to a second, of
// which 2 and 3 hold; so does a restored backup.
//
// Only the clock of the server that is the primary counts. A failover to a server whose clock is behind extends what is pending
// by the difference; grants are voided by it anyway.
//
// # Trust
//
// Whoever can write to this Redis can approve. Give it TLS and an ACL user of its own; what the user needs is
//
//	~{countersign}* resetchannels &{countersign}* +eval +evalsha +time +info +wait +get +set +del +exists +hget +hmget +hset +incr
//	+pexpire +sadd +srem +scard +zadd +zrem +zcard +zrangebyscore +zrevrangebylex +zremrangebylex +publish +subscribe
//	+unsubscribe +ping +hello +auth +client|setname +client|setinfo +cluster|slots +cluster|shards +command
package redis
