internal import Basics

/// How the members of a generation find each other: of each pair one dials, mostly the higher rank, and one waits.
struct Meeting {
    /// A member that proved the secret.
    struct Met {
        var link: any Link
        var state: MemberState
        var memory: PeerMemory
        /// On this machine, whatever the link is wrapped in.
        var isLocal: Bool
    }

    /// A connection on its way through the handshake.
    private struct Attempt {
        enum Stage { case awaitsReply, sendsFinal, awaitsFinal, sendsMemory, awaitsMemory }
        var link: any Link
        var isDialler: Bool
        var rank: Int
        var hello: Handshake.Hello
        var reply: [UInt8] = []
        var stage: Stage
        var outgoing: [UInt8]
        var sent = 0
        var incoming: [UInt8] = []
        var deadline: ContinuousClock.Instant
        /// The other's state, once proven.
        var state = MemberState()
        /// What came beside its bytes.
        var descriptors: [Int32] = []
    }

    private enum Step {
        case goesOn
        case met(PeerMemory)
        case lost(String)
        case refused(CollectivesError)
    }

    private let endpoint: Endpoint
    private let context: Handshake.Context
    private let addresses: [String]
    private let dials: Set<Int>
    private let offer: MemoryOffer?
    private let sealing: LinkSealing
    private let deadline: ContinuousClock.Instant
    private let lookout: Lookout?
    private var attempts: [Attempt] = []
    private var met: [Int: Met] = [:]
    private var redialAt: [Int: ContinuousClock.Instant] = [:]
    private var lastTrouble: [Int: String] = [:]

    private init(
        _ endpoint: Endpoint,
        _ context: Handshake.Context,
        _ addresses: [String],
        _ dials: Set<Int>,
        _ offer: MemoryOffer?,
        _ sealing: LinkSealing,
        _ lookout: Lookout?,
        _ deadline: ContinuousClock.Instant
    ) {
        self.endpoint = endpoint
        self.context = context
        self.addresses = addresses
        self.dials = dials
        self.offer = offer
        self.sealing = sealing
        self.lookout = lookout
        self.deadline = deadline
    }

    /// Meets all other members.
    ///
    /// - Parameters:
    ///   - addresses: one a member, in rank order.
    ///   - dials: the ranks to dial; the others are waited for.
    ///   - offer: what those on this machine may map.
    ///   - sealing: which links are encrypted.
    ///   - lookout: finds those who will never come.
    /// - Returns: the others by rank; the caller owns the links.
    /// - Throws: ``CollectivesError`` `.deadlineExceeded`, `.peerSilent` (ranks: the missing), `.handshakeRefused`,
    ///   `.mismatch`, `.aborted`, `.closed`; nothing stays open.
    static func meet(
        endpoint: Endpoint,
        context: Handshake.Context,
        addresses: [String],
        dials: Set<Int>,
        offer: MemoryOffer? = nil,
        sealing: LinkSealing = .betweenMachines,
        lookout: Lookout? = nil,
        deadline: ContinuousClock.Instant
    ) throws(CollectivesError) -> [Int: Met] {
        let run = FrameHeader.runNumber(context.run)
        let arrivals = try endpoint.register(run: run, generation: context.generation)
        var meeting = Meeting(endpoint, context, addresses, dials, offer, sealing, lookout, deadline)
        do throws(CollectivesError) {
            try meeting.run(arrivals)
        } catch {
            meeting.met.values.forEach { $0.link.close() }
            meeting.attempts.forEach(close)
            endpoint.unregister(run: run, generation: context.generation, isComplete: false)
            throw error
        }
        meeting.attempts.forEach(close)
        endpoint.unregister(run: run, generation: context.generation, isComplete: true)
        return meeting.met
    }

    private mutating func run(_ arrivals: Endpoint.Arrivals) throws(CollectivesError) {
        for rank in dials { redialAt[rank] = .now }
        var polls = PollSet()
        while met.count < addresses.count - 1 {
            let now = ContinuousClock.now
            guard now < deadline else { throw missing() }
            for (rank, time) in redialAt where time <= now { try dial(rank, now) }
            guard let waiting = arrivals.take() else {
                throw CollectivesError(
                    .aborted,
                    "generation \(context.generation) was given up while it opened"
                )
            }
            for arrival in waiting { answer(arrival) }
            let silent = lookout?.look(absent, at: now, wake: arrivals.wake) ?? []
            guard silent.isEmpty else { throw silence(of: silent) }

            polls.clear()
            polls.add(arrivals.wake.descriptor, read: true, write: false)
            var next = min(deadline, lookout?.next ?? deadline)
            for time in redialAt.values { next = min(next, time) }
            for attempt in attempts {
                let writes = attempt.sent < attempt.outgoing.count
                polls.add(attempt.link.descriptor, read: true, write: writes)
                next = min(next, attempt.deadline)
            }
            polls.wait(until: next)
            try advanceAll()
        }
    }

    private mutating func dial(_ rank: Int, _ now: ContinuousClock.Instant) throws(CollectivesError) {
        redialAt[rank] = nil
        do throws(CollectivesError) {
            let link = try endpoint.transport.connect(to: addresses[rank])
            let hello = Handshake.hello(
                context,
                to: rank,
                wantsSealing: sealing.applies(to: link),
                challenge: Sealing.randomBytes(32)
            )
            attempts.append(
                Attempt(
                    link: link,
                    isDialler: true,
                    rank: rank,
                    hello: hello,
                    stage: .awaitsReply,
                    outgoing: hello.bytes,
                    // The other side may hold the connection until it opens the generation itself.
                    deadline: min(deadline, now + .seconds(8))
                )
            )
        } catch {
            guard error.code == .peerLost else { throw error }
            troubled(rank, error.message)
        }
    }

    private mutating func answer(_ arrival: Endpoint.Arrival) {
        let rank = Int(arrival.hello.dialler)
        guard arrival.hello.listener == UInt32(context.rank), rank != context.rank, !dials.contains(rank),
            rank < addresses.count,
            met[rank] == nil, attempts.count < addresses.count * 4
        else {
            endpoint.countRefusal()
            arrival.link.close()
            return
        }
        let reply = Handshake.reply(
            context,
            to: arrival.hello,
            wantsSealing: sealing.applies(to: arrival.link),
            challenge: Sealing.randomBytes(32)
        )
        attempts.append(
            Attempt(
                link: arrival.link,
                isDialler: false,
                rank: rank,
                hello: arrival.hello,
                reply: reply,
                stage: .awaitsFinal,
                outgoing: reply,
                deadline: min(deadline, .now + .seconds(5))
            )
        )
    }

    private mutating func advanceAll() throws(CollectivesError) {
        let now = ContinuousClock.now
        var kept: [Attempt] = []
        var refusal: CollectivesError?
        for var attempt in attempts {
            switch Self.advance(&attempt, context, offer) {
            case .goesOn where attempt.deadline > now: kept.append(attempt)
            case .goesOn:
                Self.close(attempt)
                if attempt.isDialler { troubled(attempt.rank, "it did not answer the handshake in time") }
            case .met(let memory):
                if met[attempt.rank] == nil {
                    met[attempt.rank] = Met(
                        link: Self.sealed(attempt, context),
                        state: attempt.state,
                        memory: memory,
                        isLocal: attempt.link.passesDescriptors
                    )
                } else {
                    attempt.link.close()
                }
            case .lost(let reason):
                Self.close(attempt)
                if attempt.isDialler { troubled(attempt.rank, reason) }
            case .refused(let error):
                endpoint.countRefusal()
                Self.close(attempt)
                // Whoever dials in may be anybody: only our own choice of address is an error of ours.
                if attempt.isDialler || error.code == .mismatch { refusal = refusal ?? error }
            }
        }
        attempts = kept
        if let refusal { throw refusal }
    }

    private mutating func troubled(_ rank: Int, _ reason: String) {
        lastTrouble[rank] = reason
        redialAt[rank] = .now + .milliseconds(25)
    }

    private var absent: [Int] { addresses.indices.filter { $0 != context.rank && met[$0] == nil } }

    private func silence(of ranks: [Int]) -> CollectivesError {
        let list = ranks.map { "\($0) (\(addresses[$0]))" }.joined(separator: ", ")
        return CollectivesError(
            .peerSilent,
            "nothing came from rank \(list) while generation \(context.generation) opened",
            ranks: ranks
        )
    }

    private func missing() -> CollectivesError {
        let ranks = absent
        let list = ranks.map { rank in
            let reason = lastTrouble[rank].map { ": \($0)" } ?? ""
            return "\(rank) (\(addresses[rank])\(reason))"
        }
        return CollectivesError(
            .deadlineExceeded,
            "generation \(context.generation) lacks rank \(list.joined(separator: ", "))",
            ranks: ranks
        )
    }

    private static func sealed(_ attempt: Attempt, _ context: Handshake.Context) -> any Link {
        guard Handshake.isSealed(hello: attempt.hello, reply: attempt.reply) else { return attempt.link }
        let keys = Handshake.keys(context, hello: attempt.hello, reply: attempt.reply)
        return attempt.isDialler
            ? SealedLink(attempt.link, sending: keys.dialler, receiving: keys.listener)
            : SealedLink(attempt.link, sending: keys.listener, receiving: keys.dialler)
    }

    private static func close(_ attempt: Attempt) {
        attempt.link.close()
        attempt.descriptors.forEach(closeDescriptor)
    }

    private static func advance(
        _ attempt: inout Attempt,
        _ context: Handshake.Context,
        _ offer: MemoryOffer?
    ) -> Step {
        while true {
            if attempt.sent < attempt.outgoing.count {
                switch send(&attempt, offer) {
                case .moved(let count): attempt.sent += count
                case .wouldBlock: return .goesOn
                case .ended: return .lost("it closed the connection")
                case .failed(let number): return .lost(systemText(number))
                }
                continue
            }
            switch attempt.stage {
            case .sendsFinal: if let step = proven(&attempt, offer) { return step }
            case .sendsMemory:
                attempt.stage = .awaitsMemory
                attempt.incoming = []
            case .awaitsReply, .awaitsFinal, .awaitsMemory:
                switch receive(&attempt) {
                case .moved: if let step = heard(&attempt, context, offer) { return step }
                case .wouldBlock: return .goesOn
                case .ended: return .lost("it closed the connection")
                case .failed(let number): return .lost(systemText(number))
                }
            }
        }
    }

    private static func send(_ attempt: inout Attempt, _ offer: MemoryOffer?) -> LinkProgress {
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        return attempt.outgoing.withUnsafeBytes { bytes in
            let rest = UnsafeRawBufferPointer(rebasing: bytes[attempt.sent...])
            guard attempt.stage == .sendsMemory, attempt.sent == 0 else {
                return attempt.link.send(rest, and: nothing)
            }
            return attempt.link.pass(MemoryOffer.message(offer).descriptors, with: rest)
        }
    }

    private static func due(_ stage: Attempt.Stage) -> Int {
        switch stage {
        case .awaitsReply: Handshake.replyBytes
        case .awaitsFinal: Handshake.finalBytes
        case .awaitsMemory: MemoryOffer.messageBytes
        case .sendsFinal, .sendsMemory: 0
        }
    }

    private static func receive(_ attempt: inout Attempt) -> LinkProgress {
        var buffer = [UInt8](repeating: 0, count: due(attempt.stage) - attempt.incoming.count)
        let progress = buffer.withUnsafeMutableBytes { bytes in
            guard attempt.stage == .awaitsMemory else {
                return attempt.link.receive(
                    into: bytes,
                    and: UnsafeMutableRawBufferPointer(start: nil, count: 0)
                )
            }
            let (progress, descriptors) = attempt.link.take(bytes)
            attempt.descriptors += descriptors
            return progress
        }
        if case .moved(let count) = progress { attempt.incoming += buffer.prefix(count) }
        return progress
    }

    /// Judges a message once all of it is there; nil while the attempt goes on.
    private static func heard(
        _ attempt: inout Attempt,
        _ context: Handshake.Context,
        _ offer: MemoryOffer?
    ) -> Step? {
        guard attempt.incoming.count == due(attempt.stage) else { return nil }
        if attempt.stage == .awaitsMemory {
            defer { attempt.descriptors = [] }
            return .met(MemoryOffer.read(attempt.incoming, attempt.descriptors))
        }
        if attempt.stage == .awaitsFinal {
            if let refusal = finish(&attempt, context) { return refusal }
            return proven(&attempt, offer)
        }
        guard let said = Handshake.check(reply: attempt.incoming, context, hello: attempt.hello) else {
            return .refused(
                CollectivesError(
                    .handshakeRefused,
                    "rank \(attempt.rank) did not prove the secret of generation \(context.generation)",
                    ranks: [attempt.rank]
                )
            )
        }
        guard said.plan == context.plan else { return .refused(otherPlan(attempt, context)) }
        attempt.state = said.state
        attempt.reply = attempt.incoming
        attempt.outgoing = Handshake.final(context, hello: attempt.hello, reply: attempt.incoming)
        attempt.sent = 0
        attempt.stage = .sendsFinal
        return nil
    }

    /// Both have proven the secret: members of one machine hand each other their memory.
    private static func proven(_ attempt: inout Attempt, _ offer: MemoryOffer?) -> Step? {
        guard attempt.link.passesDescriptors else { return .met(.missing("it is not on this machine")) }
        attempt.outgoing = MemoryOffer.message(offer).bytes
        attempt.sent = 0
        attempt.stage = .sendsMemory
        return nil
    }

    /// Judges the dialler's proof; nil when it holds.
    private static func finish(_ attempt: inout Attempt, _ context: Handshake.Context) -> Step? {
        let state = Handshake.check(
            final: attempt.incoming,
            context,
            hello: attempt.hello,
            reply: attempt.reply
        )
        guard let state else {
            return .refused(
                CollectivesError(
                    .handshakeRefused,
                    "a connection as rank \(attempt.rank) did not prove the secret",
                    ranks: [attempt.rank]
                )
            )
        }
        attempt.state = state
        return attempt.hello.plan == context.plan ? nil : .refused(otherPlan(attempt, context))
    }

    private static func otherPlan(_ attempt: Attempt, _ context: Handshake.Context) -> CollectivesError {
        CollectivesError(
            .mismatch,
            "rank \(attempt.rank) was given another plan for generation \(context.generation)",
            ranks: [attempt.rank]
        )
    }
}
