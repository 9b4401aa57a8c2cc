// Package natsstore keeps an inbox in an existing NATS JetStream that several gateways share: `store nats <url…>`. It is a
// client only, and opt-in, as the NATS client is a large dependency: a Caddy has it if this package is built into it.
//
// # The subject is the state
//
// An inbox `name` has a stream INBOX_name, of files, with at most one message a subject:
//
//	inbox.name.new.<SHA-256 of the id>   no delivery has failed yet
//	inbox.name.retry.…                   one has; when it is due stands in its headers
//	inbox.name.delivered.…               forgotten after `remember`, by the message's own TTL
//	inbox.name.dropped.…                 likewise, and its request was dropped to make room
//	inbox.name.dead.…                    given up
//
// (a dot in the name becomes ~). The truth about an id is its message with the highest seq; whatever is lower is garbage. What
// becomes of a message is one publish, which moves it: it expects that the last message matching inbox.name.*.<digest> has
// the seq that was looked at, or that there is none. Then the former message is deleted, which settles it for its consumer. So a
// message has another seq with each outcome. A random word in a header tells an own move, whose answer was lost, from another's.
//
// Four consumers are called by the states. `new` and `retry` hand out; `delivered` and `dead` only count.
//
// A stream INBOX-CLAIMS_name has what is being delivered. Before each delivery, inbox.name.claim.<digest>.<seq> is published, and
// expects none. It has the TTL of a lease, and stays when the message is settled: a server that lost its leadership, or was without
// it, may hand out late what was settled meanwhile. With three servers killed, frozen and cut off under load, two gateways delivered
// 52 messages of 72,437 twice without claims, up to 35 of 51,298 with claims taken back, and none of 147,730 within a lease with
// claims left to their TTL. Claims have a stream of their own for two reasons. What the other one holds, in bytes and messages, is
// the inbox's. And a server 2.11 compares again on each replica, each of which ends a TTL by its own clock: a claim may then be
// missing on one of them, but no message.
//
// # What looks after the consumers
//
// Every half minute, and sooner after trouble, a gateway compares what the consumers know with what the stream has: first in all, as
// a server has to count one by one what each should know, which took a second with 120,000 messages. One that differs for three looks is deleted and made again, and then hands out everything that is pending; claims keep apart what is in flight. The
// runs that brought this back are of TestServerDies, which kills the only server three times under load, with server 2.11.12:
//
//   - A consumer counted 15 messages as pending that were gone, and in another run 60 instead of 50.
//   - A consumer knew of nine messages that had failed once, and never handed them out again, though their time had long come (1 of 12
//     runs). So what is due for longer than a lease, while somebody waits for it, is a difference too.
//
// A user of NATS needs to publish to inbox.>, $JS.API.> and $JS.ACK.>, and to subscribe to _INBOX.>.
//
// # What of JetStream it relies on
//
// From server 2.11 on; an older one is refused:
//
//   - Nats-Expected-Last-Subject-Sequence with Nats-Expected-Last-Subject-Sequence-Subject, which may have wildcards: of all who
//     move a message at once, through whatever server, one does.
//   - The answer to a publish means that a majority has it: "In a replicated setup, a published message is acknowledged after it
//     successfully replicated to at least a quorum of servers."
//   - Nats-TTL, the time to live of one message.
//   - AckWait: what was in flight at a crash is handed out again after the delivery's timeout and 30 s.
//   - "More consistent results can be achieved by sending get requests to the stream leader": all reads of single messages are such.
//
// A server that hangs closes no connection. After two questions in vain, of 2 s each, and a ping, the gateway takes another one.
//
// # Deliveries get their turn
//
// A server answers in the order of what it is asked, and a delivery is two questions one after the other. So while messages wait,
// four callers of Put at most ask at once; else 64 of them would leave a sixteenth of the answers to eight deliveries.
//
// # What is not promised
//
// "under the default configuration it does not immediately fsync data to disk. The server uses a configurable sync_interval
// option, with a default value of 2 minutes […] In a non-replicated setup, an OS failure may result in data loss." and "If
// multiple servers fail simultaneously, all due to an OS failure, and before their data has been fsync-ed, the cluster may
// fail to recover the most recently acknowledged messages." So the death of any server's process loses nothing, nor does
// that of one machine of three with `replicas 3`; the power failing on all at once, or on the one, may lose the last two
// minutes. Set "sync_interval: always" where there is one server, or all are in one room. A client cannot see whether it is set.
//
// Where no outcome can be recorded for longer than a lease lasts, which is the delivery's timeout and 30 s, what was in flight
// then comes again: once for each such delivery. No message is lost by it.
//
// On servers 2.11 with replicas, a message that is put in the very second in which a delivered one of its id is forgotten may be
// missing on a replica that forgets it a moment later. Later servers compare once, where they lead.
//
// Several gateways may exceed max_store a little together: each counts what it puts, and asks the server once a second. A list may
// show a message twice that is being moved, and be a moment behind. With gateways of different timeouts the longest counts.
package natsstore
