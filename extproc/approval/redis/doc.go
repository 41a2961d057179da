// Package redis keeps the approvals of several gateways in one Redis: a single server, a primary that Sentinel watches, or a
// cluster.
//
// Every change is one Lua script, which Redis runs whole or not at all. All keys of a store have one hash tag, so in a
// cluster they are on one node. A script reads the server's clock, refuses a change that comes after the deadline of the state that
// it leaves, keeps the indexes, and publishes the change, so that gateways need not poll. A gateway that has to subscribe again has
// its waiters read again.
//
// # What a failover can lose
//
// Redis answers before its replicas have a write, so a failover can take back what was answered. Three things guard against
// that; the second alone is enough that no grant is spent twice.
//
//  1. Options.Replicas: a change counts only when that many replicas have it (WAIT on the same connection). With fewer the
//     error is approval.ErrUncertain and nothing is acknowledged. If it is the number of all replicas, no acknowledged change is
//     lost when the primary fails. A primary that a partition has cut off cannot make a change count.
//  2. The fence: an approval is stored with the run id of its server, and only that run of that server can spend it. After a
//     restart or a failover nobody knows whether a grant was spent in what was lost, so it is voided, and people are asked again.
//     No operation runs twice, whatever Options.Replicas is.
//  3. Gateways remember the answers and the states that they saw (approval.ErrRolledBack): one that saw a rejection or an approval
//     notices if it was taken back, voids the request and raises an alarm.
//
// A single Redis should have appendonly yes. With appendfsync everysec a crash of its machine loses up to a second; 2 and 3 guard
// against that loss, and against a restored backup.
//
// Only the clock of the primary counts. A failover to a server whose clock is behind extends pending requests by the difference; it
// voids grants anyway.
//
// # Trust
//
// Whoever can write to this Redis can approve. Give it TLS and an ACL user of its own; what the user needs is
//
//	~{countersign}* resetchannels &{countersign}* +eval +evalsha +time +info +wait +get +set +del +exists +hget +hmget +hset +incr
//	+pexpire +sadd +srem +scard +zadd +zrem +zcard +zrangebyscore +zrevrangebylex +zremrangebylex +publish +subscribe
//	+unsubscribe +ping +hello +auth +client|setname +client|setinfo +cluster|slots +cluster|shards +command
package redis
