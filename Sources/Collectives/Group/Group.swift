public import Basics
internal import CShims
internal import Dispatch
internal import Synchronization

/// One member of a generation, as the coordinator describes it to all.
public struct Member: Hashable, Sendable {
    /// Its place among the members, from 0.
    public var rank: Int
    /// Where its ``Endpoint`` is reached.
    public var address: String
    /// The lanes it computes; may be empty.
    public var lanes: LaneSet

    /// A member at an address.
    public init(rank: Int, address: String, lanes: LaneSet) {
        self.rank = rank
        self.address = address
        self.lanes = lanes
    }
}

/// Members that keep another one waiting with their lanes.
public struct GroupWait: Hashable, Sendable {
    /// Those whose part of the operation has not begun to come.
    public var ranks: [Int]
    /// How long the other one has waited.
    public var duration: Duration
}

/// The members of one generation of a run, joined: they combine what their lanes computed, operation by operation.
///
/// One thread of its own moves all bytes, adds, and shows a sign of life each 200 ms also while the caller computes.
/// ``reduce(operation:contributions:laneValues:sum:feedback:settles:)``, a training step's all-reduce, and the plain
/// collectives are called by one thread at a time. After any error the group
/// is unusable; ``memberState`` is what the next generation needs. ``close()`` it when done; it ends its links.
public final class Group: Sendable {
    /// What may be tuned.
    public struct Options: Sendable {
        /// How long a member may say nothing while an operation waits for it.
        ///
        /// Larger rides out longer pauses, smaller notices a frozen host sooner. Above 0.6 s; the same for all members.
        public var silenceLimit: Duration = .seconds(3)
        /// Each member gives one sum of all its lanes instead of one for each aligned subtree.
        ///
        /// Fewer bytes, but the result then depends on who holds which lanes. The same for all members.
        public var combines = false
        /// How values may travel beside exactly.
        ///
        /// Another one than `.exact` needs ``combines``. The same for all members.
        public var codec = PayloadCodec.exact
        /// How the values of a training step are cut, in the order in which they can be given: see
        /// ``Group/begin(operation:contributions:width:sum:)``.
        ///
        /// Together all N values; each begins on a multiple of 16. The same for all members; none = in one.
        public var buckets: [Range<Int>] = []
        /// The site of each member, by rank; empty = one each.
        ///
        /// Members of one site add up among themselves before sites exchange, unless all members share memory: see
        /// ``Group/reduce(operation:contributions:laneValues:sum:feedback:settles:)``. The same for all members.
        public var sites: [Int] = []
        /// Which links are encrypted; each side may ask for it.
        public var sealing = LinkSealing.betweenMachines
        /// 3 s, subtree by subtree, exactly; what leaves the machine is encrypted.
        public init() {}
    }

    /// What went to and fro so far, updated at the end of each operation.
    public struct Counters: Hashable, Sendable {
        /// Bytes written to all links.
        public var bytesSent = 0
        /// Bytes read from all links.
        public var bytesReceived = 0
        /// Bytes of values that were read in the memory of other members.
        public var bytesThroughMemory = 0
        /// Frames read.
        public var framesReceived = 0
        /// Frames of another run, generation or an older operation: dropped.
        public var framesDropped = 0
    }

    /// The generation.
    public let generation: UInt32
    /// This member.
    public let rank: Int
    /// The number of members.
    public let memberCount: Int
    /// How this generation starts.
    public let resolution: Resolution
    /// The ranks that joined without the run's state: the first of the others gives it to them.
    public let joiners: [Int]

    let plan: GroupPlan
    let shared: GroupShared
    private let thread: CommThread?
    let exchange: SharedExchange?
    /// By rank.
    let peers: [Int: Peer]
    /// Where the contributions stand of an operation that was begun.
    ///
    /// Safety: written by the one caller before the group's thread is told, and not again before it is done.
    nonisolated(unsafe) let given: UnsafeMutableBufferPointer<UnsafeRawPointer?>

    /// Meets all members of a generation.
    ///
    /// Higher ranks dial lower ones, unless `dials` says otherwise; both sides prove `secret` to each other. Blocks until all links stand.
    /// - Parameters:
    ///   - endpoint: where this process is reached; its address is the one in `members`.
    ///   - run: the run; a part of each frame.
    ///   - generation: larger than any generation this endpoint opened before for the run.
    ///   - rank: this member's place in `members`.
    ///   - members: in rank order, the same for all members; together they hold all lanes.
    ///   - laneCount: L, a power of two up to 64.
    ///   - secret: the generation's.
    ///   - state: ``memberState`` of the generation before, or what a joiner fetched.
    ///   - deadline: when to give up.
    ///   - dials: the ranks that this member dials, while it waits for the others; nil = the lower ones. Of each pair
    ///     one side dials.
    ///   - owners: the ranks that sum a segment each, the same for all members; empty = all. Members that meet the others
    ///     only over one of them then exchange nothing but digests with each other.
    ///   - options: what may be tuned.
    ///   - isSilent: asked for members that do not come, on threads of their own: whether they say nothing at all for as
    ///     long as that is borne. Such a one is waited for no longer.
    ///   - onFailure: called once, on the group's thread, when the group can't go on; must not block or close the
    ///     group. Not called for ``abort(_:)`` and ``close()`` on this side.
    ///   - onWait: called on the group's thread when members that have lanes keep this one waiting, first after 0.2 to
    ///     0.4 s, then each time that the wait has doubled; must not block or close the group.
    /// - Throws: ``CollectivesError`` `.deadlineExceeded`, `.peerSilent` (ranks: those missing), `.handshakeRefused`, `.mismatch`,
    ///   `.diverged`, `.aborted` (``Endpoint/abandon(generation:of:)``), `.closed`, `.system`.
    /// - Cost: P - 1 links, one thread, 0.4 MiB a link.
    public static func open(
        endpoint: Endpoint,
        run: RunID,
        generation: UInt32,
        rank: Int,
        members: [Member],
        laneCount: Int,
        secret: Redacted<[UInt8]>,
        state: MemberState = MemberState(),
        deadline: ContinuousClock.Instant,
        dials: Set<Int>? = nil,
        owners: Set<Int> = [],
        options: Options = Options(),
        isSilent: (@Sendable (_ rank: Int) -> Bool)? = nil,
        onFailure: (@Sendable (CollectivesError) -> Void)? = nil,
        onWait: (@Sendable (GroupWait) -> Void)? = nil
    ) throws(CollectivesError) -> Group {
        precondition(members.indices.contains(rank), "rank \(rank) of \(members.count) members")
        precondition(members.indices.allSatisfy { members[$0].rank == $0 }, "members are not in rank order")
        precondition(
            owners.allSatisfy(members.indices.contains),
            "owners \(owners) of \(members.count) members"
        )
        precondition(options.combines || options.codec == .exact, "\(options.codec) needs combined lanes")
        let plan = GroupPlan(
            run: FrameHeader.runNumber(run),
            generation: generation,
            rank: rank,
            lanes: members.map(\.lanes),
            tree: try LaneTree(
                laneCount: laneCount,
                lanes: members.map(\.lanes),
                combines: options.combines
            ),
            laneCount: laneCount,
            owners: members.indices.map { owners.isEmpty || owners.contains($0) },
            silenceLimit: options.silenceLimit,
            combines: options.combines,
            codec: options.codec,
            buckets: options.buckets,
            twoLevels: try ValueRoutes(
                options.sites,
                members.map(\.lanes),
                laneCount: laneCount,
                owners: owners,
                options
            )
        )
        let context = Handshake.Context(
            run: run,
            generation: generation,
            rank: rank,
            plan: plan.digest,
            secret: secret,
            state: state
        )
        // What is lost in fewer bytes is fed back over links, and must be the same bits wherever members are.
        let offer = members.count > 1 && !options.combines ? MemoryOffer(endpoint) : nil
        let met = try Meeting.meet(
            endpoint: endpoint,
            context: context,
            addresses: members.map(\.address),
            dials: dials ?? Set(0..<rank),
            offer: offer,
            sealing: options.sealing,
            lookout: isSilent.map { Lookout(now: .now, pause: options.silenceLimit / 2, isSilent: $0) },
            deadline: deadline
        )
        do throws(CollectivesError) {
            let states = members.indices.map { met[$0]?.state ?? state }
            let decided = try Resolution.decide(rank: rank, states: states)
            let shared = GroupShared(state: decided.state, wake: try WakeEvent())
            let exchange = offer.flatMap {
                SharedExchange.make(plan: plan, offer: $0, peers: met.mapValues(\.memory))
            }
            let mates = plan.twoLevels.map { routes in
                members.indices.filter { $0 != rank && routes.leaders[$0] == routes.leaders[rank] }
            }
            let site = offer.flatMap { SiteMemory($0, mates: mates ?? [], memory: met.mapValues(\.memory)) }
            var thread: CommThread?
            if members.count > 1 {
                let links = met.mapValues(\.link)
                thread = try CommThread(name: "coord-comm-\(rank)") {
                    CommLoop(plan, shared, links, exchange, site, onFailure, onWait).run()
                }
            }
            return Group(
                plan: plan,
                shared: shared,
                thread: thread,
                exchange: exchange,
                peers: met.mapValues {
                    Peer(memory: $0.memory, isLocal: $0.isLocal, isSealed: $0.link.isSealed)
                },
                resolution: decided.resolution,
                joiners: states.indices.filter { states[$0].isJoining }
            )
        } catch {
            met.values.forEach { $0.link.close() }
            throw error
        }
    }

    private init(
        plan: GroupPlan,
        shared: GroupShared,
        thread: CommThread?,
        exchange: SharedExchange?,
        peers: [Int: Peer],
        resolution: Resolution,
        joiners: [Int]
    ) {
        self.joiners = joiners
        self.exchange = exchange
        self.peers = peers
        self.plan = plan
        self.shared = shared
        self.thread = thread
        self.resolution = resolution
        generation = plan.generation
        rank = plan.rank
        memberCount = plan.lanes.count
        given = .allocate(capacity: plan.tree.subtrees[plan.rank].count)
    }

    deinit {
        close()
        given.deallocate()
    }

    /// What this member knows now; give it to the next generation.
    ///
    /// When ``MemberState/retained`` is not nil after a failure, `sum` and `laneValues` of that operation hold the
    /// complete result; keep them until the next generation says ``Resolution/commitReady`` or recomputes.
    public var memberState: MemberState { shared.state.withLock { $0.member } }

    /// What went over the links so far.
    public var counters: Counters { shared.state.withLock { $0.counters } }

    /// The subtrees of this member's lanes: what it contributes to each operation.
    public var subtrees: [LaneSubtree] { plan.tree.subtrees[rank] }

    /// L, the lanes of the run.
    public var laneCount: Int { plan.laneCount }

    /// Why the group can't go on; nil while it can.
    public var failure: CollectivesError? { shared.state.withLock { $0.failure } }

    /// Adds up one operation over all lanes of the run, and commits it.
    ///
    /// Values are summed along the fixed tree on lane numbers (node = left + right), so the result has the same bits
    /// for any number of members and any distribution of lanes. Each member owns one segment of the values, receives
    /// the others' contributions for it, sums, and returns the result. It is committed when every member says that it
    /// holds the result with one digest.
    ///
    /// - Parameters:
    ///   - operation: ``MemberState/committed`` of ``memberState``.
    ///   - contributions: exactly the subtrees of this member's lanes, each `[N]`; N may be 0. They stay as they are.
    ///   - laneValues: `[laneCount × W]`, row i for lane i. In: the rows of this member's lanes; out: all rows.
    ///     With ``Options/combines``: any sums that make up this member's one with a `feedback`, else exactly one.
    ///   - feedback: for ``Options/codec``: encodes, and adds what earlier operations lost. Its owner calls
    ///     ``ErrorFeedback/commit()`` once the operation is committed, here or by the next generation's resolution.
    ///   - settles: with a `feedback`: values travel exactly, with all that was left, and nothing is left.
    ///   - sum: `[N]`, out; must not overlap the contributions unless P is 1. After an error its contents are
    ///     undefined, unless ``memberState`` retains the operation: then sum and laneValues are complete.
    /// - Throws: ``CollectivesError`` `.peerLost`, `.peerSilent`, `.peerLeft`, `.peerAborted`, `.diverged`, `.mismatch`,
    ///   `.badFrame`, `.aborted`, `.closed`; all name ranks. The group is unusable afterwards.
    /// - Precondition: every member passes the same operation, N and W; the operation is the next one.
    /// - Cost: two latencies and one for the commit; `2·4N·(P-1)/P` bytes sent when each member holds one subtree;
    ///   one segment of scratch for each foreign subtree. With ``Options/sites``: four latencies; what sites send to each
    ///   other is as if each of them were one member; a leader has N of scratch for each subtree of its site.
    public func reduce(
        operation: UInt64,
        contributions: [(subtree: LaneSubtree, values: UnsafeBufferPointer<Float>)],
        laneValues: inout [Double],
        sum: UnsafeMutableBufferPointer<Float>,
        feedback: ErrorFeedback? = nil,
        settles: Bool = false
    ) throws(CollectivesError) {
        if plan.combines {
            precondition(
                feedback.map { $0.codec == plan.codec } ?? (sum.isEmpty || contributions.count == 1),
                "rank \(rank) contributes \(contributions.count) sums, its generation combines lanes (\(plan.codec))"
            )
        } else {
            precondition(
                feedback == nil,
                "rank \(rank) feeds back in a generation that does not combine lanes"
            )
        }
        check(contributions, sum)
        precondition(laneValues.count % plan.laneCount == 0, "\(laneValues.count) lane values, no whole rows")
        if let ended = laneValues.withUnsafeMutableBufferPointer({ finishBegun(operation, $0) }) {
            if let ended { throw ended }
            return
        }
        var fed: UnsafePointer<Float>?
        if let feedback, !sum.isEmpty {
            let segmentation = Segmentation(elements: sum.count, owners: plan.owners)
            // Alone there is nobody to whom values would travel.
            let isExact = settles || thread == nil
            let values = contributions.map(\.values.baseAddress)
            fed = feedback.prepare(values, segmentation: segmentation, rank: rank, settles: isExact)
        }
        // Of combined lanes there is one sum: what was fed back, the only one, or none.
        let isOne = plan.combines && (fed != nil || contributions.count != 1)
        let encoder = settles || sum.isEmpty || thread == nil ? nil : feedback
        let width = laneValues.count / plan.laneCount
        let count = isOne ? 1 : contributions.count
        let outcome = withUnsafeTemporaryAllocation(of: UnsafeRawPointer?.self, capacity: count) { given in
            for index in 0..<count {
                let values = isOne ? fed : contributions[index].values.baseAddress
                given.initializeElement(at: index, to: UnsafeRawPointer(values))
            }
            return laneValues.withUnsafeMutableBufferPointer { rows in
                run(
                    PostedOperation(
                        operation: operation,
                        shape: OperationShape(
                            elements: sum.count,
                            width: width,
                            codec: encoder?.codec ?? .exact
                        ),
                        contributions: UnsafeBufferPointer(given),
                        laneValues: rows,
                        result: UnsafeMutableRawPointer(sum.baseAddress),
                        feedback: encoder,
                        floatMode: coord_float_mode()
                    )
                )
            }
        }
        if let outcome { throw outcome }
    }

    /// What a caller of a training step's all-reduce must give.
    func check(
        _ contributions: [(subtree: LaneSubtree, values: UnsafeBufferPointer<Float>)],
        _ sum: UnsafeMutableBufferPointer<Float>
    ) {
        let mine = plan.tree.subtrees[rank]
        precondition(
            plan.combines || contributions.elementsEqual(mine) { $0.subtree == $1 },
            "rank \(rank) contributes \(contributions.map(\.subtree)), its lanes are \(mine)"
        )
        precondition(
            contributions.allSatisfy { $0.values.count == sum.count },
            "contributions of \(contributions.map(\.values.count)) values for a sum of \(sum.count)"
        )
    }

    /// Does an operation, the way that this group has.
    func run(_ posted: PostedOperation) -> CollectivesError? {
        let count = posted.shape.elements
        precondition(count <= Int(UInt32.max) / 2, "\(count) values are too many for one operation")
        if thread == nil { return doAlone(posted) }
        return exchange == nil ? exchangeOverLinks(posted) : exchangeThroughMemory(posted)
    }

    /// Gives up: a blocked or the next operation throws `.aborted`.
    ///
    /// May be called from any thread; the other members learn it at once.
    public func abort(_ reason: String) {
        shared.state.withLock { state in
            if state.abortReason == nil { state.abortReason = reason }
            if thread == nil, state.failure == nil { state.failure = CollectivesError(.aborted, reason) }
        }
        shared.wake.signal()
    }

    /// Ends the links and the thread; waits for the thread.
    ///
    /// The other members see that this one left on purpose. A blocked reduce throws `.aborted`. Further calls do
    /// nothing.
    public func close() {
        shared.state.withLock { state in
            state.isClosing = true
            if thread == nil, state.failure == nil {
                state.failure = CollectivesError(.closed, "the group of generation \(generation) is closed")
            }
        }
        shared.wake.signal()
        thread?.join()
    }

    /// Hands an operation to the group's thread and waits for it.
    func exchangeOverLinks(_ posted: PostedOperation) -> CollectivesError? {
        if let refusal = begin(posted, { $0.posted = posted }) { return refusal }
        return waitForThread()
    }

    func waitForThread() -> CollectivesError? {
        shared.wake.signal()
        shared.finished.wait()
        return shared.state.withLock { state in
            defer { state.outcome = nil }
            return state.outcome
        }
    }

    /// Notes that an operation is in flight, unless the group has failed.
    func begin(
        _ posted: PostedOperation,
        _ how: (inout GroupShared.State) -> Void
    ) -> CollectivesError? {
        shared.state.withLock { state in
            if let failure = state.failure { return failure }
            precondition(
                posted.operation == state.member.committed && !state.isInFlight,
                "operation \(posted.operation) is not the next one, \(state.member.committed)"
            )
            state.member.begin()
            state.isInFlight = true
            how(&state)
            return nil
        }
    }

    private func doAlone(_ posted: PostedOperation) -> CollectivesError? {
        let refusal: CollectivesError? = shared.state.withLock { state in
            if state.failure == nil {
                precondition(
                    posted.operation == state.member.committed,
                    "operation \(posted.operation) is not the next one, \(state.member.committed)"
                )
                state.member.begin()
            }
            return state.failure
        }
        if let refusal { return refusal }
        var fingerprint = ResultFingerprint()
        let shape = posted.shape
        if let result = posted.result, shape.elements > 0, shape.form.combines {
            if let leaves = posted.contributions.baseAddress {
                plan.tree.combine(
                    leaves,
                    into: result,
                    0..<shape.elements,
                    shape.form,
                    mode: posted.floatMode,
                    &fingerprint
                )
            }
        }
        let digest = fingerprint.digest(posted)
        shared.state.withLock { state in
            state.member.becomeReady(digest)
            state.member.commit()
        }
        return nil
    }
}
