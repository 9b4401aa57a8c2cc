// Package natsstore keeps an inbox in an existing NATS JetStream that several gateways share: `store nats <url…>`. It is a
// client only, and opt-in, as the NATS client is a large dependency: a Caddy has it if this package is built into it.
//
// # What is where
//
// An inbox `name` has five streams, all of files, with one message a subject:
//
//	INBOX_name            inbox.name.message.<SHA-256 of the id>   the requests, until they are forgotten; the seq is the stream's
//	INBOX-DELIVERED_name  inbox.name.delivered.<key>               when and how one was delivered
//	INBOX-DEAD_name       inbox.name.dead.<key>                    likewise given up
//	INBOX-RETRY_name      inbox.name.retry.<key>.entry and .note   which wait for another try; their attempts, due time, last answer
//	INBOX-LEASES_name     inbox.name.lease.<key>.…, claim.<key>    who may deliver what; forgotten after a few minutes
//
// (a dot in the name becomes ~; the key is the Inbox-Put of the message, a random word of the call that stored it), and two
// consumers, both called `inbox`: of the requests, for first deliveries, and of the entries, for all further ones, so that
// retries never keep what is new waiting. A message is pending if there is no record of it under delivered or dead: the
// records decide, and what the consumers know is only how messages come to be looked at. A consumer that was deleted is made
// anew, and delivers nothing twice. What a consumer has forgotten, an audit finds and puts into the queue of retries. How many
// are pending is counted: so no record may stay of a message that is no more, and what replaces one says which (Inbox-Replaces).
//
// Gateways may have different timeouts: the longest counts, and each claim says how long it lasts.
//
// While nothing comes, a gateway asks each consumer once in half a minute, and the server answers with a heartbeat every two
// seconds; what is put wakes whoever waits at once.
//
// Where a message's request is dropped to make room, or where it is redelivered after it was settled, its seq changes. That
// one is being delivered at this moment is known of the gateway's own deliveries, not of another's.
//
// A user of NATS needs to publish to inbox.>, $JS.API.> and $JS.ACK.>, and to subscribe to _INBOX.>.
//
// # What of JetStream it relies on
//
// With JetStream's own words, from docs.nats.io:
//
//   - Put is a publish that expects no message of its subject, and waits for the answer. "Used to apply optimistic
//     concurrency control at the subject-level. The value is the last expected sequence and the server will reject a publish
//     if the current sequence does not match for the message's subject." (Nats-Expected-Last-Subject-Sequence). Unlike
//     Nats-Msg-Id, this has no window of time. "For writes (publications to a stream), the formal consistency model of NATS
//     JetStream is Linearizable."
//   - The answer means that a majority has it: "In a replicated setup, a published message is acknowledged after it
//     successfully replicated to at least a quorum of servers."
//   - "MaxMsgsPerSubject: Limits maximum number of messages in the stream to retain per subject": an id has one message.
//   - "AckWait: The duration that the server will wait for an acknowledgment for any individual message once it has been
//     delivered to a consumer. If an acknowledgment is not received in time, the message will be redelivered." That is how
//     what was in flight at a crash comes again: after the delivery's timeout and 30 s.
//   - "You can also control the timing of re-deliveries when messages are negatively acknowledged with Nak(), by passing a
//     nakDelay() option (or using NakWithDelay())". If that is lost, the message comes early, and the note says so.
//   - "More consistent results can be achieved by sending get requests to the stream leader": all reads of messages are
//     such; the streams do not allow direct gets. Only what stands in the index may come from a server that knows no leader, so
//     a list of claims counts if our own is in it.
//
// # What it does not rely on
//
// That an old server keeps its word. Of streams with three replicas, 2.9.10 was seen to lose what it had acknowledged: 20
// messages of one run of about forty with servers killed, frozen and without a quorum on a busy machine. Against that a
// client can do nothing but warn. 2.15.2 was not seen to.
//
// Nor that a consumer hands out every message. Server 2.9.10 was seen, after a consumer's leader was killed, to count as
// acknowledged what had only just been handed out: the message is pending, and never comes. The audit (audit.go) therefore
// compares numbers while something is pending, and after trouble the messages with the records, in parts where they are many;
// what is missed for longer than a lease is brought back.
//
// Nor that what a server does not find is not there. It says the same of any error of its disk (10037), and one that stood says
// it of what is new. So the server's index is asked too (subjects_filter) before anything is removed for want of its message,
// and before what somebody has claimed once, or what is missed, is delivered again for want of a record. Nor that what is read
// is all: a server that was silent for a moment looks like one that has no more, so it is counted.
//
// Nor that what was sent over a connection that broke is lost: it may arrive later than what was sent after it. So a removal
// excepts what is stored later, and a claim is given back only where it is known what came of that for which it was taken.
//
// Nor that a consumer is left alone when something is removed: server 2.9 makes it forget all that is pending when what matches
// its filter is purged. So one message is deleted, or what is purged does not match (janitor.go).
//
// Nor that a message keeps its seq, which one that is lost and put again does not. Everything recorded is of the message's
// key, and what is old is removed by subjects where there are replicas.
//
// Nor that a consumer hands out a message once. Servers before 2.11 send it before its delivery is agreed on, so that one
// handed out by a leader that then dies is handed out by the next one too, within its AckWait; and a server that stood
// still sends late what it had begun to send. Therefore each delivery is claimed in the stream of leases, by a publish
// that expects none, before it begins; and whoever is not the first to be handed a message looks for the claims of others.
// Nor on an expected sequence other than 0: on replicated streams, old servers compare it when a message is proposed, not
// when it is stored; what replaces a message is claimed as well. Nor on max_bytes: with "discard new", server 2.9.10 may
// remove the oldest message all the same, so the room is counted here, and several gateways may exceed max_store a little
// together.
//
// # What is not promised
//
// "under the default configuration it does not immediately fsync data to disk. The server uses a configurable sync_interval
// option, with a default value of 2 minutes […] In a non-replicated setup, an OS failure may result in data loss." and "If
// multiple servers fail simultaneously, all due to an OS failure, and before their data has been fsync-ed, the cluster may
// fail to recover the most recently acknowledged messages." So the death of any server's process loses nothing, nor does
// that of one machine of three with `replicas 3`; the power failing on all at once, or on the one, may lose the last two
// minutes. "setting sync_interval: always will make sure servers fsync after every message before it is acknowledged": set
// it (from server 2.10 on) where there is one server, or all are in one room. A client cannot see whether it is set.
//
// Where no outcome can be recorded for longer than a lease lasts, which is the delivery's timeout and 30 s, what was in flight
// then comes again: the servers hand it out as if its gateway had died, and what the app has taken is on no record. So a
// cluster that is without a quorum for so long makes one message come twice for each delivery that was in flight. (50 s without
// a quorum: 11 of 8,014.) No message is lost by it.
//
// A server that answers reads while it does not know yet that it is no leader any more may miss a delivery recorded a moment
// ago. That could make one message come twice only if, at once, its acknowledgment was lost and its lease had run out.
package natsstore
