internal import Basics
internal import ClusterFile
internal import ContentStore
internal import Remote
internal import Synchronization
internal import Wire

// The way down: the agent, what it started, and a look that nothing is left.
extension HostSession {
    /// How an agent is to end.
    struct Shutdown: Sendable {
        /// Remove what the host keeps.
        var wipes: Bool
        /// Give up checkpoints that nobody else has.
        var force: Bool
        /// Brings checkpoints home that only the host has.
        var rescue: @Sendable (BulkLink, [Digest]) throws -> Void
    }

    /// Ends the agent and what it started, and looks that nothing is left; stops a rented host.
    ///
    /// - Parameter done: told what was found and done, in words, or why the agent is not down.
    func shutDown(
        _ how: Shutdown,
        done: @escaping @Sendable (_ words: String, _ failure: (any ExplainedError)?) -> Void
    ) {
        jobs.put { [self] in
            do {
                let client = try state.withLock({ $0.client }) ?? openClient(connect { _, _ in })
                if !how.force, how.wipes || spec.rented, case .status(let status) = try client.call(.status),
                    let unsaved = status.unsaved, !unsaved.isEmpty
                {
                    try how.rescue(try bulkLink(), unsaved)
                }
                state.withLock { $0.isClosed = true }
                done(try end(client, how), nil)
            } catch {
                let failure = explained(error)
                done(failure.message, failure)
            }
            close()
        }
    }

    func end(_ client: AgentClient, _ how: Shutdown) throws -> String {
        let (host, program) = state.withLock { ($0.host, $0.program) }
        // The program that looks afterwards lies in the folder; where none can be run, the agent removes it itself.
        let looks = !spec.rented && host != nil && !program.isEmpty
        let reply = try client.call(
            .shutdown(wipe: how.wipes && !looks, stops: spec.rented, force: how.force),
            timeout: 120_000
        )
        var report = SweepReport()
        if case .ended(let ended) = reply { report = ended }
        var words: [String] = []
        if spec.rented {
            // A host that goes away before it says so has been stopped.
            let frame = try? client.channel.receive(timeoutMilliseconds: 150_000)
            let answer = try frame.map { try MessageCoding.decode(AgentReply.self, from: $0.payload) }
            if case .stopped(let result)? = answer, !result.isSuccess {
                throw CoordinatorError(
                    "\(name): the stop command failed (\(result.text)); its agent stays and tries again",
                    hint: "stop the host by hand, or it goes on costing"
                )
            }
            words.append("stopped by: \(spec.stop ?? "")")
        }
        // The agent is gone when the connection is.
        while (try? client.channel.receive(timeoutMilliseconds: 30_000)) != nil {}
        if looks, let host {
            let command =
                "\(shell(program)) sweep --directory \(shell(remoteRoot)) --cluster \(workspace.clusterID)"
            let swept = try host.run(command + (how.wipes ? " --wipe" : ""))
            guard let found = try? MessageCoding.decode(SweepReport.self, from: swept.output) else {
                throw CoordinatorError(
                    "\(name): it could not be looked whether something is left: \(swept.errorText)"
                )
            }
            report.ended += found.ended
            report.removed += found.removed
            report.left = found.left
        }
        guard report.left.isEmpty else {
            throw CoordinatorError(
                "\(name): the agent is down, but left behind: \(report.left.joined(separator: ", "))",
                hint: "coord down again, or end it by hand"
            )
        }
        if !report.ended.isEmpty { words.append("ended \(report.ended.joined(separator: ", "))") }
        if !report.removed.isEmpty { words.append("removed \(report.removed.joined(separator: ", "))") }
        if looks { words.append(how.wipes ? "no process and no file is left" : "no process is left") }
        return words.joined(separator: "; ")
    }
}
