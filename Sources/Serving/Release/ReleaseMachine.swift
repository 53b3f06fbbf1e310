internal import Basics
internal import Wire

/// The name of a child process within one router; never used twice.
struct ChildID: Hashable, Sendable, Comparable {
    var number: Int
    static func < (a: ChildID, b: ChildID) -> Bool { a.number < b.number }
}

/// A version and where its files are.
struct Placement: Codable, Hashable, Sendable {
    var version: ServedVersion
    var folder: String
}

/// What `state.json` holds: enough to serve again after a restart.
struct SavedState: Codable, Hashable, Sendable {
    /// The format's own version.
    var format = 1
    /// Who answers.
    var live: Placement?
    /// Who answered before.
    var previous: Placement?
}

/// Decides which version answers: releases, rollbacks, deaths and restarts of children.
///
/// A pure value: time and events come in, actions go out; ``Supervisor`` carries them out on one thread, in order.
struct ReleaseMachine: Sendable {
    /// The numbers that decide.
    struct Limits: Sendable {
        /// How long a child may load and check itself.
        var loading: Duration = .seconds(60)
        /// How many times a live child may die within ``window`` and be started again.
        var restarts = 3
        /// Deaths older than this are forgotten; also the pause before a version without a way back is tried again.
        var window: Duration = .seconds(60)
        /// How long children may take to finish when we stop.
        var stopping: Duration = .seconds(10)
        /// Largest absolute difference between recorded and computed logits.
        var tolerance = 1e-4
    }

    /// What happened.
    enum Event: Sendable {
        /// The router starts with what an earlier one saved.
        case start(SavedState)
        /// Somebody wants a version to be live.
        case release(Placement, ticket: Int)
        /// Somebody wants the previous version back.
        case rollback(ticket: Int)
        /// A child has loaded its model and computed its golden examples.
        case loaded(ChildID, difference: Double)
        /// A child says why it can't serve.
        case failed(ChildID, message: String, hint: String?)
        /// A child has ended.
        case exited(ChildID, how: String)
        /// The state was written, or was not, and why.
        case saved(failure: ServingError?)
        /// Time has passed.
        case tick
        /// The router should end.
        case stop
    }

    /// What to do, in this order.
    enum Action: Equatable, Sendable {
        case save(SavedState)
        case spawn(ChildID, Placement)
        case publish(View)
        case reply(ticket: Int, ServeReply)
        /// Let it finish what it has, then end it.
        case end(ChildID)
        /// End it now.
        case kill(ChildID)
        case log(Severity, String)
        case countRestart
        /// All children have ended.
        case finish
    }

    /// How much a log line matters.
    enum Severity: Sendable { case notice, warning, error }

    /// Who can answer requests.
    struct View: Equatable, Sendable {
        struct Entry: Equatable, Sendable {
            var version: ServedVersion
            /// nil while nobody can answer for it.
            var child: ChildID?
        }
        var live: Entry?
        var previous: Entry?
        /// The live version can't answer now but is being loaded.
        var isComing = false
    }

    private enum Readiness: Equatable, Sendable {
        case absent
        case loading(ChildID, deadline: Duration)
        case ready(ChildID, difference: Double)

        var child: ChildID? {
            switch self {
            case .absent: nil
            case .loading(let id, _), .ready(let id, _): id
            }
        }
        var readyChild: ChildID? { if case .ready(let id, _) = self { id } else { nil } }
    }

    private struct Slot: Sendable {
        var placement: Placement
        var readiness: Readiness
    }

    private struct Candidate: Sendable {
        var placement: Placement
        var child: ChildID
        var deadline: Duration
        var ticket: Int
    }

    private struct Switch: Sendable {
        var live: Slot
        var previous: Slot?
        var difference: Double
        var ticket: Int
    }

    private let limits: Limits
    private var live: Slot?
    private var previous: Slot?
    private var candidate: Candidate?
    private var switching: Switch?
    private var alive: Set<ChildID> = []
    private var deaths: [Duration] = []
    private var retryAt: Duration?
    private var stopDeadline: Duration?
    private var isStopping = false
    private var nextChild = 1
    private var published: View?
    private var actions: [Action] = []
    private var replies: [Action] = []
    private var endings: [Action] = []

    init(limits: Limits = Limits()) { self.limits = limits }

    /// When ``Event/tick`` is needed next.
    var nextDeadline: Duration? {
        if isStopping { return stopDeadline }
        var all = [retryAt, stopDeadline, candidate?.deadline].compactMap(\.self)
        for slot in [live, previous] {
            if case .loading(_, let deadline)? = slot?.readiness { all.append(deadline) }
        }
        return all.min()
    }

    /// Takes one event; the actions are to be carried out in order before the next one.
    mutating func handle(_ event: Event, at now: Duration) -> [Action] {
        switch event {
        case .start(let saved): start(saved, now)
        case .release(let placement, let ticket): release(placement, ticket, now)
        case .rollback(let ticket): rollback(ticket, now)
        case .loaded(let child, let difference): loaded(child, difference, now)
        case .failed(let child, let message, let hint):
            if alive.contains(child) { endings.append(.end(child)) }
            lost(child, message, hint, now)
        case .exited(let child, let how):
            alive.remove(child)
            lost(child, "its process ended (\(how))", nil, now)
        case .saved(let failure): saved(failure)
        case .tick: tick(now)
        case .stop: stop(now)
        }
        if isStopping, alive.isEmpty {
            endings.append(.finish)
            stopDeadline = nil
        }
        let view = currentView
        if view != published {
            published = view
            actions.append(.publish(view))
        }
        defer { (actions, replies, endings) = ([], [], []) }
        return actions + replies + endings
    }

    private var currentView: View {
        guard !isStopping else { return View() }
        var isComing = false
        if case .loading? = live?.readiness { isComing = true }
        return View(
            live: live.map { .init(version: $0.placement.version, child: $0.readiness.readyChild) },
            previous: previous.map { .init(version: $0.placement.version, child: $0.readiness.readyChild) },
            isComing: isComing
        )
    }

    private var savedState: SavedState { SavedState(live: live?.placement, previous: previous?.placement) }

    private mutating func spawn(_ placement: Placement) -> ChildID {
        let child = ChildID(number: nextChild)
        nextChild += 1
        alive.insert(child)
        actions.append(.spawn(child, placement))
        return child
    }

    private mutating func loadingSlot(_ placement: Placement, _ now: Duration) -> Slot {
        Slot(
            placement: placement,
            readiness: .loading(spawn(placement), deadline: now + limits.loading)
        )
    }

    private mutating func refuse(_ ticket: Int, _ message: String, hint: String?) {
        replies.append(.reply(ticket: ticket, .refused(message: message, hint: hint)))
    }

    private mutating func start(_ saved: SavedState, _ now: Duration) {
        live = saved.live.map { loadingSlot($0, now) }
        previous = saved.previous.map { loadingSlot($0, now) }
    }

    /// Says why nothing can be switched now; nil when it can.
    private var obstacle: String? {
        if isStopping { return "coord-serve is stopping" }
        return candidate.map { "\($0.placement.version.text) is being released right now" }
    }

    private mutating func release(_ placement: Placement, _ ticket: Int, _ now: Duration) {
        if let obstacle { return refuse(ticket, obstacle, hint: "try again when that has ended") }
        if let live, live.placement == placement, case .ready(_, let difference) = live.readiness {
            replies.append(
                .reply(
                    ticket: ticket,
                    .released(
                        live: placement.version,
                        previous: previous?.placement.version,
                        goldenMaximumDifference: difference
                    )
                )
            )
            return
        }
        load(placement, ticket, now)
    }

    private mutating func load(_ placement: Placement, _ ticket: Int, _ now: Duration) {
        candidate = Candidate(
            placement: placement,
            child: spawn(placement),
            deadline: now + limits.loading,
            ticket: ticket
        )
    }

    private mutating func rollback(_ ticket: Int, _ now: Duration) {
        if let obstacle { return refuse(ticket, obstacle, hint: "try again when that has ended") }
        guard let previous else {
            return refuse(ticket, "there is no previous version to go back to", hint: "release one by number")
        }
        guard case .ready(_, let difference) = previous.readiness else {
            if let child = previous.readiness.child { endings.append(.kill(child)) }
            self.previous?.readiness = .absent
            return load(previous.placement, ticket, now)
        }
        propose(Switch(live: previous, previous: live, difference: difference, ticket: ticket))
    }

    /// A switch is done when it is on the disk: what was answered must come back after a power cut.
    private mutating func propose(_ change: Switch) {
        switching = change
        actions.append(.save(SavedState(live: change.live.placement, previous: change.previous?.placement)))
    }

    private mutating func saved(_ failure: ServingError?) {
        guard let change = switching else {
            if let failure { actions.append(.log(.error, failure.message)) }
            return
        }
        switching = nil
        let kept = Set([live, previous].compactMap { $0?.readiness.child })
        if let failure {
            if let child = change.live.readiness.child, !kept.contains(child) { endings.append(.end(child)) }
            return refuse(change.ticket, failure.message, hint: failure.hint)
        }
        let staying = Set([change.live, change.previous].compactMap { $0?.readiness.child })
        endings += kept.subtracting(staying).sorted().map { .end($0) }
        live = change.live
        previous = change.previous
        deaths = []
        retryAt = nil
        let names = (change.live.placement.version.text, change.previous?.placement.version.text ?? "nothing")
        actions.append(.log(.notice, "\(names.0) is live, before it \(names.1)"))
        replies.append(
            .reply(
                ticket: change.ticket,
                .released(
                    live: change.live.placement.version,
                    previous: change.previous?.placement.version,
                    goldenMaximumDifference: change.difference
                )
            )
        )
    }

    private mutating func loaded(_ child: ChildID, _ difference: Double, _ now: Duration) {
        // Written so that a difference that is no number does not pass.
        guard difference <= limits.tolerance else {
            endings.append(.end(child))
            lost(
                child,
                "its golden examples differ by \(difference) from the trainer's outputs, \(limits.tolerance) is allowed",
                "train or export the version again; it does not compute what it did",
                now
            )
            return
        }
        if live?.readiness.child == child {
            live?.readiness = .ready(child, difference: difference)
        } else if previous?.readiness.child == child {
            previous?.readiness = .ready(child, difference: difference)
        } else if let new = candidate, new.child == child {
            candidate = nil
            let slot = Slot(placement: new.placement, readiness: .ready(child, difference: difference))
            // The same version again (from another folder) must not become its own way back.
            let isSame = live?.placement.version == new.placement.version
            propose(
                Switch(
                    live: slot,
                    previous: isSame ? previous : live,
                    difference: difference,
                    ticket: new.ticket
                )
            )
        }
    }

    private mutating func lost(
        _ child: ChildID,
        _ reason: String,
        _ hint: String?,
        _ now: Duration
    ) {
        if let new = candidate, new.child == child {
            candidate = nil
            let name = new.placement.version.text
            actions.append(.log(.error, "\(name) was not released: \(reason)"))
            refuse(
                new.ticket,
                "\(name) was not released: \(reason)",
                hint: hint ?? "see the log of coord-serve"
            )
        } else if previous?.readiness.child == child {
            previous?.readiness = .absent
            if !isStopping {
                actions.append(.log(.warning, "the previous version waits on disk only: \(reason)"))
            }
        } else if live?.readiness.child == child, !isStopping {
            liveLost(reason, now)
        }
    }

    private mutating func liveLost(_ reason: String, _ now: Duration) {
        guard let dead = live else { return }
        deaths = deaths.filter { now - $0 < limits.window } + [now]
        let name = dead.placement.version.text
        if deaths.count <= limits.restarts {
            actions.append(.log(.warning, "\(name) is started again: \(reason)"))
            actions.append(.countRestart)
            live = loadingSlot(dead.placement, now)
        } else if var fallback = previous {
            actions.append(
                .log(.error, "\(name) died \(deaths.count) times, back to \(fallback.placement.version.text)")
            )
            if case .absent = fallback.readiness { fallback = loadingSlot(fallback.placement, now) }
            live = fallback
            previous = nil
            deaths = []
            actions.append(.save(savedState))
        } else {
            actions.append(
                .log(.error, "\(name) died \(deaths.count) times and there is no version before it")
            )
            live?.readiness = .absent
            retryAt = now + limits.window
        }
    }

    private mutating func tick(_ now: Duration) {
        if let stopDeadline, now >= stopDeadline {
            self.stopDeadline = nil
            endings += alive.sorted().map { .kill($0) }
        }
        if let new = candidate, now >= new.deadline {
            endings.append(.kill(new.child))
            lost(new.child, "it did not load within \(limits.loading)", nil, now)
        }
        for slot in [live, previous] {
            guard case .loading(let child, let deadline)? = slot?.readiness, now >= deadline else { continue }
            endings.append(.kill(child))
            lost(child, "it did not load within \(limits.loading)", nil, now)
        }
        if let time = retryAt, now >= time, let broken = live {
            retryAt = nil
            deaths = []
            live = loadingSlot(broken.placement, now)
        }
    }

    private mutating func stop(_ now: Duration) {
        guard !isStopping else { return }
        isStopping = true
        retryAt = nil
        stopDeadline = now + limits.stopping
        if let new = candidate {
            candidate = nil
            refuse(new.ticket, "coord-serve is stopping", hint: nil)
        }
        endings += alive.sorted().map { .end($0) }
    }
}

extension ServedVersion {
    /// `digits-cnn@7`.
    var text: String { "\(model)@\(version)" }
}
