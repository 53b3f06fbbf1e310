internal import Basics
internal import Wire

/// A drill under way: what was asked, by whom, and what is seen of it once it has begun.
struct Drill {
    var request: DrillRequest
    var peer: ControlPeer
    var host: String
    var worker: Int
    /// The agent was told.
    var isBegun = false
    var watch: DrillWatch?
}

// Faults that a person asks for.
extension Coordinator {
    /// Chooses the worker, and strikes when the step has come.
    ///
    /// - Throws: ``CoordinatorError`` where there is nothing to strike, or nobody would be left.
    func begin(_ request: DrillRequest, _ peer: ControlPeer) throws {
        guard drill == nil else {
            throw CoordinatorError(
                "another drill is under way",
                hint: "try again when it has reported",
                exitCode: .locked
            )
        }
        guard let active, let machine = active.machine, machine.generation > 0, !active.isFinishing else {
            throw CoordinatorError(
                "no run is at work",
                hint: "coord up starts one; a drill needs a run in progress"
            )
        }
        if let reason = machine.parkedFor {
            throw CoordinatorError(
                "run \(active.id) waits already: \(reason)",
                hint: "a drill needs a run in progress"
            )
        }
        // Who joins has nothing to go on with.
        let working = machine.members.filter {
            machine.planned.contains($0.key) && $0.value.address != nil && !$0.value.joins
        }
        let chosen = working.filter { number, member in
            (request.host.map { $0 == member.host } ?? true) && (request.worker.map { $0 == number } ?? true)
        }
        guard let (worker, member) = chosen.max(by: { $0.key < $1.key }) else {
            let known = working.sorted { $0.key < $1.key }.map { "\($0.key) on \($0.value.host)" }
            throw CoordinatorError(
                "run \(active.id) has no such worker",
                hint: "workers are \(known.joined(separator: ", "))",
                exitCode: .badInput
            )
        }
        let isAlone = working.count == 1
        guard !isAlone || request.injury.kind == .slow else {
            throw CoordinatorError(
                "worker \(worker) on \(member.host) is the only one: there is nobody to go on without it",
                hint: "coord up HOST brings another host into the run first"
            )
        }
        if let step = request.step, step > active.totalSteps {
            throw CoordinatorError(
                "the run ends with step \(active.totalSteps), before step \(step)",
                hint: "give a smaller --at",
                exitCode: .badInput
            )
        }
        drill = Drill(request: request, peer: peer, host: member.host, worker: worker)
        let when = request.step.map { "when step \($0) is done" } ?? "now"
        peer.send(
            .note("drill: \(request.injury.kind.rawValue) of worker \(worker) on \(member.host), \(when)")
        )
        strikeIfDue()
    }

    /// Strikes once the step that was asked for is done.
    private func strikeIfDue() {
        guard let active, var drill, !drill.isBegun else { return }
        guard active.window.last?.step ?? 0 >= drill.request.step ?? 0 else { return }
        guard let session = hosts[drill.host]?.session, let machine = active.machine,
            machine.planned.contains(drill.worker)
        else {
            return endDrill(
                CoordinatorError(
                    "worker \(drill.worker) on \(drill.host) left the run before the drill began",
                    hint: "try again with another --worker"
                )
            )
        }
        drill.isBegun = true
        drill.watch = DrillWatch(
            drill.request.injury,
            of: active.id,
            host: drill.host,
            worker: drill.worker,
            before: active.window,
            generation: machine.generation,
            lanes: machine.members[drill.worker]?.lanes.count ?? 0,
            now: .now
        )
        self.drill = drill
        let (injury, worker) = (drill.request.injury, drill.worker)
        log(
            "drill",
            "\(injury.kind.rawValue) of worker \(worker)",
            who: drill.request.who,
            run: active.id,
            host: drill.host
        )
        session.perform(
            { try $0.call(.injure(run: active.id, member: worker, injury)) },
            failed: { [mailbox] error in mailbox.put(.resume { $0.endDrill(error) }) }
        )
        lookAtDrill()
    }

    /// Tells the drill what a worker reported.
    func drillHears(_ report: TrainerReport, of member: Int) {
        guard drill != nil else { return }
        strikeIfDue()
        drill?.watch?.heard(report, of: member, now: .now)
        reportDrill(runEnded: false)
    }

    /// Tells the drill that a generation begins.
    func drillSees(_ plan: GenerationPlan, _ reason: String) {
        drill?.watch?.planned(plan, reason, now: .now)
    }

    /// The run is over, and the drill with it.
    func endDrillWithRun(_ id: RunID) {
        guard drill != nil else { return }
        if drill?.watch == nil {
            return endDrill(
                CoordinatorError("run \(id) ended before the drill began", hint: "give a smaller --at")
            )
        }
        reportDrill(runEnded: true)
    }

    private func lookAtDrill() {
        guard let watch = drill?.watch else { return }
        after(max(.milliseconds(10), watch.deadline - .now)) { coordinator in
            guard coordinator.drill != nil else { return }
            coordinator.reportDrill(runEnded: false)
            coordinator.lookAtDrill()
        }
    }

    private func reportDrill(runEnded: Bool) {
        guard let drill, let report = drill.watch?.report(at: .now, runEnded: runEnded) else { return }
        log("drill", report.words, run: report.run, host: report.host)
        drill.peer.send(.drill(report))
        endDrill(nil)
    }

    private func endDrill(_ error: (any ExplainedError)?) {
        drill?.peer.finish(error)
        drill = nil
    }
}

extension DrillReport {
    /// The report in one line, for the log.
    var words: String {
        func seconds(_ value: Double?) -> String {
            value.map { "\((($0 * 1000).rounded() / 1000)) s" } ?? "-"
        }
        return "\(kind.rawValue) of worker \(worker): detected in \(seconds(detectedSeconds)), recovered in "
            + "\(seconds(recoveredSeconds)), stall \(seconds(stallSeconds)), \(stepsRepeated) steps repeated, "
            + "\(stepsMissing) missing, \(isLeftOut ? "left out" : "not left out"), \(end.rawValue)"
    }
}
