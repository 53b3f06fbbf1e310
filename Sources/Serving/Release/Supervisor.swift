internal import Basics
internal import Dispatch
internal import Logging
internal import Synchronization
internal import Wire

/// Carries out what ``ReleaseMachine`` decides, on one thread: starts and ends children, saves the state, answers.
final class Supervisor: Sendable {
    private struct Inbox {
        var events: [ReleaseMachine.Event] = []
        var tickets: [Int: @Sendable (ServeReply) -> Void] = [:]
        var nextTicket = 1
        var isFinished = false
        var whenFinished: [CheckedContinuation<Void, Never>] = []
    }

    /// Who answers now.
    let table = ServingTable()
    /// What is counted.
    let metrics = Mutex(ServeMetrics())

    private let statePath: String
    private let childMemory: UInt64?
    private let limits: ReleaseMachine.Limits
    private let logger: Logger
    private let inbox = Mutex(Inbox())
    private let wake = DispatchSemaphore(value: 0)
    private let begin = ContinuousClock.now

    /// - Parameters:
    ///   - statePath: the file that outlives this process.
    ///   - childMemory: limit on a child's address space; unit: bytes.
    init(statePath: String, childMemory: UInt64?, limits: ReleaseMachine.Limits, logger: Logger) {
        self.statePath = statePath
        self.childMemory = childMemory
        self.limits = limits
        self.logger = logger
    }

    /// Reads the state and starts the thread that brings the live version back.
    ///
    /// - Throws: ``ServingError`` `.badModel` when the state is there but can't be read.
    func start() throws {
        var saved = SavedState()
        if Files.kind(statePath) != nil {
            let bytes = try Files.read(statePath, limit: 1 << 20)
            do {
                saved = try MessageCoding.decode(SavedState.self, from: bytes)
            } catch {
                throw ServingError(
                    .badModel,
                    "\(statePath) can't be read: \(error)",
                    hint: "move it away; the versions must then be released again"
                )
            }
            guard saved.format == 1 else {
                throw ServingError(.badModel, "\(statePath) has format \(saved.format), this program reads 1")
            }
        }
        post(.start(saved))
        OSThread.start(name: "serve") { [self] in run() }
    }

    /// Tells what happened.
    func post(_ event: ReleaseMachine.Event) {
        inbox.withLock { $0.events.append(event) }
        wake.signal()
    }

    /// Asks for a release or a rollback and blocks until it is answered.
    func ask(_ event: (_ ticket: Int) -> ReleaseMachine.Event) -> ServeReply {
        let answered = DispatchSemaphore(value: 0)
        let answer = Mutex<ServeReply?>(nil)
        let isQueued = inbox.withLock { inbox in
            guard !inbox.isFinished else { return false }
            let ticket = inbox.nextTicket
            inbox.nextTicket += 1
            inbox.tickets[ticket] = { reply in
                answer.withLock { $0 = reply }
                answered.signal()
            }
            inbox.events.append(event(ticket))
            return true
        }
        if isQueued {
            wake.signal()
            answered.wait()
        }
        return answer.withLock(\.self) ?? .refused(message: "coord-serve is stopping", hint: nil)
    }

    /// Ends all children, letting them finish, and waits until they are gone.
    func stop() async {
        post(.stop)
        await withCheckedContinuation { continuation in
            let isFinished = inbox.withLock { inbox in
                if !inbox.isFinished { inbox.whenFinished.append(continuation) }
                return inbox.isFinished
            }
            if isFinished { continuation.resume() }
        }
    }

    private func run() {
        var machine = ReleaseMachine(limits: limits)
        var children: [ChildID: ChildHandle] = [:]
        while true {
            let events = inbox.withLock { inbox in
                defer { inbox.events = [] }
                return inbox.events
            }
            for event in events.isEmpty ? [.tick] : events {
                if case .exited(let id, _) = event { children[id] = nil }
                var actions = machine.handle(event, at: now)
                while let action = actions.first {
                    actions.removeFirst()
                    if case .save(let state) = action {
                        actions = machine.handle(.saved(failure: save(state)), at: now) + actions
                    } else if case .finish = action {
                        return finish()
                    } else {
                        perform(action, &children)
                    }
                }
            }
            if let deadline = machine.nextDeadline {
                let wait = max(.zero, deadline - now) / Duration.milliseconds(1)
                _ = wake.wait(timeout: .now() + .milliseconds(Int(wait.rounded(.up))))
            } else {
                wake.wait()
            }
        }
    }

    private var now: Duration { begin.duration(to: .now) }

    private func finish() {
        let (tickets, waiting) = inbox.withLock { inbox in
            inbox.isFinished = true
            defer { (inbox.tickets, inbox.whenFinished) = ([:], []) }
            return (inbox.tickets.values, inbox.whenFinished)
        }
        for answer in tickets { answer(.refused(message: "coord-serve is stopping", hint: nil)) }
        for continuation in waiting { continuation.resume() }
    }

    private func save(_ state: SavedState) -> ServingError? {
        do {
            try Files.writeAtomically(try MessageCoding.encode(state), to: statePath, mode: 0o600)
            return nil
        } catch {
            let explained = error as? any ExplainedError
            return ServingError(.failed, explained?.message ?? "\(error)", hint: explained?.hint)
        }
    }

    private func perform(_ action: ReleaseMachine.Action, _ children: inout [ChildID: ChildHandle]) {
        switch action {
        case .save, .finish: preconditionFailure("\(action) is the loop's own")
        case .spawn(let id, let placement):
            do {
                children[id] = try ChildHandle(id, placement, memory: childMemory) { [self] in post($0) }
            } catch {
                post(.exited(id, how: "\(error)"))
            }
        case .publish(let view):
            func entry(_ entry: ReleaseMachine.View.Entry?) -> ServingTable.Entry? {
                entry.map { .init(version: $0.version, child: $0.child.flatMap { children[$0] }) }
            }
            table.publish(live: entry(view.live), previous: entry(view.previous), isComing: view.isComing)
        case .reply(let ticket, let reply):
            inbox.withLock { $0.tickets.removeValue(forKey: ticket) }?(reply)
        case .end(let id): children[id]?.end()
        case .kill(let id): children[id]?.kill()
        case .countRestart: metrics.withLock { $0.recordRestart() }
        case .log(let severity, let text):
            switch severity {
            case .notice: logger.notice("\(text)")
            case .warning: logger.warning("\(text)")
            case .error: logger.error("\(text)")
            }
        }
    }
}
