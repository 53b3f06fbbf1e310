internal import Basics
internal import ClusterFile
internal import ContentStore
internal import Logging
internal import Registry
internal import Wire

// Releases: a checkpoint becomes a model version, its files go to the host, coord-serve checks it and switches.
extension Coordinator {
    // MARK: By itself, at the end of a run

    /// Puts the run's best checkpoint on the host of the file when it is good enough and better than what is there.
    func deployBest(of run: RunID, record: RunRecord) {
        guard let deploy = file?.deploy, deploy.when == .best, record.spec.isBaseline != true else {
            return release(run)
        }
        let monitor = (try? Monitor(named: record.spec.monitor)) ?? .valAccuracy
        guard let best = read({ try $0.best(of: run, by: monitor) }), let value = monitor.value(best.metrics)
        else {
            tell(run, .note("not deployed: no checkpoint has \(monitor.rawValue)"))
            return release(run)
        }
        if let minimum = deploy.minimum, monitor == .valLoss ? value > minimum : value < minimum {
            tell(
                run,
                .note(
                    "not deployed: \(monitor.rawValue) \(value) does not reach the stated minimum \(minimum)"
                )
            )
            return release(run)
        }
        if let live = read({ snapshot -> ModelVersionRow? in
            guard let current = try snapshot.currentRelease(host: deploy.host) else { return nil }
            return try snapshot.modelVersion(current.model, current.version)
        }), !monitor.improves(best.metrics, on: live.metrics, by: deploy.improvement) {
            tell(
                run,
                .note(
                    "not deployed: \(monitor.rawValue) \(value) is no improvement on \(live.label) "
                        + "(\(monitor.value(live.metrics) ?? 0)) on \(deploy.host)"
                )
            )
            return release(run)
        }
        startRelease(
            best,
            name: record.spec.name,
            host: deploy.host,
            reason: "best of run \(run)",
            tell: { $0.tell(run, $1) },
            done: { $0.release(run, error: $1) }
        )
    }

    // MARK: By command

    /// `coord deploy`.
    func deploy(host: String, version: String?, peer: ControlPeer) throws {
        let (checkpoint, name) = try registry.read { snapshot -> (CheckpointRow, String) in
            if let version {
                let row = try snapshot.modelVersion(matching: version)
                guard let checkpoint = try snapshot.checkpoint(row.checkpoint, of: row.run) else {
                    throw CoordinatorError(
                        "the checkpoint of \(row.label) is not known",
                        hint: "coord model list shows the versions there are"
                    )
                }
                return (checkpoint, row.name)
            }
            guard
                let run = try snapshot.runs().filter({ $0.state == .finished }).max(by: {
                    $0.created < $1.created
                }),
                let record = run.record,
                let best = try snapshot.best(of: run.id, by: try Monitor(named: record.spec.monitor))
            else {
                throw CoordinatorError(
                    "there is nothing to deploy: no run has finished",
                    hint: "coord up trains one"
                )
            }
            return (best, record.spec.name)
        }
        guard checkpoint.isHome else {
            throw CoordinatorError(
                "checkpoint \(checkpoint.manifest.short) is not here yet",
                hint: "coord checkpoint show \(checkpoint.manifest.short) names the host that holds it"
            )
        }
        whenReady(host, peer) { coordinator in
            coordinator.startRelease(
                checkpoint,
                name: name,
                host: host,
                reason: "coord deploy",
                tell: { peer.send($1) },
                done: { peer.finish($1) }
            )
        }
    }

    /// `coord rollback`.
    func rollback(host: String, peer: ControlPeer) throws {
        guard let target = try registry.read({ try $0.previousRelease(host: host) }) else {
            throw CoordinatorError(
                "\(host) has no version before the live one",
                hint: "coord deploy --host \(host) --version NAME@N"
            )
        }
        whenReady(host, peer) { coordinator in
            coordinator.hosts[host]?.session.perform(
                { [mailbox = coordinator.mailbox] client in
                    guard case .serve(let reply) = try client.call(.rollback) else {
                        throw CoordinatorError("\(host): no answer to the rollback", exitCode: .bug)
                    }
                    mailbox.put(.resume { $0.rolledBack(reply, to: target, host: host, peer: peer) })
                },
                failed: { peer.finish($0) }
            )
        }
    }

    private func rolledBack(_ reply: ServeReply, to target: ReleaseRow, host: String, peer: ControlPeer) {
        switch reply {
        case .released(let live, _, let difference):
            let label = "\(live.model)@\(live.version)"
            write { transaction in
                _ = try transaction.rollBack(host: host, to: target, reason: "coord rollback", time: now)
            }
            log("release", "rolled back to \(label)", host: host)
            peer.send(
                .release(
                    ReleaseEvent(
                        host: host,
                        version: label,
                        state: "live",
                        detail: "golden difference \(difference)"
                    )
                )
            )
            peer.finish()
        case .refused(let message, let hint): peer.finish(CoordinatorError("\(host): \(message)", hint: hint))
        default: peer.finish(CoordinatorError("\(host): unexpected answer", exitCode: .bug))
        }
    }

    /// `coord predict`.
    func predict(host: String?, values: [Float], peer: ControlPeer) throws {
        let released = try registry.read { try $0.releases() }.last { $0.state == .live }?.host
        let named = host ?? file?.deploy?.host ?? released
        guard let name = named else {
            throw CoordinatorError("nothing is deployed", hint: "coord deploy --host HOST")
        }
        whenReady(name, peer) { coordinator in
            coordinator.hosts[name]?.session.perform(
                { client in
                    var bytes = ByteWriter(capacity: values.count * 4)
                    for value in values { bytes.write(value) }
                    guard
                        case .serve(let reply) = try client.call(
                            .predict(count: values.count),
                            parts: [bytes.bytes]
                        )
                    else {
                        throw CoordinatorError("\(name): no answer to the prediction", exitCode: .bug)
                    }
                    switch reply {
                    case .prediction(let version, let classes, let probabilities):
                        peer.send(
                            .prediction(version: version, classes: classes, probabilities: probabilities)
                        )
                        peer.finish()
                    case .refused(let message, let hint):
                        peer.finish(CoordinatorError("\(name): \(message)", hint: hint, exitCode: .badInput))
                    default: peer.finish(CoordinatorError("\(name): unexpected answer", exitCode: .bug))
                    }
                },
                failed: { peer.finish($0) }
            )
        }
    }

    /// Does something with a host of the cluster once it is ready; brings it up when it is not.
    private func whenReady(_ name: String, _ peer: ControlPeer, _ body: @escaping (Coordinator) -> Void) {
        guard let entry = hosts[name] else {
            let known = hosts.keys.sorted().joined(separator: ", ")
            return peer.finish(
                CoordinatorError(
                    "unknown host \(name); known: \(known.isEmpty ? "none" : known)",
                    hint: known.isEmpty ? "coord up brings the cluster up" : nil,
                    exitCode: .badInput
                )
            )
        }
        if entry.phase == .ready { return body(self) }
        peer.finish(
            CoordinatorError(
                "\(name) is \(entry.phase.rawValue)",
                hint: "coord up brings it back",
                exitCode: .unreachable
            )
        )
    }

    // MARK: The release itself

    private func startRelease(
        _ checkpoint: CheckpointRow,
        name: String,
        host: String,
        reason: String,
        tell: @escaping @Sendable (Coordinator, ControlEvent) -> Void,
        done: @escaping @Sendable (Coordinator, (any ExplainedError)?) -> Void
    ) {
        guard let entry = hosts[host], entry.spec.serves else {
            return done(
                self,
                CoordinatorError(
                    "\(host) has no role serve",
                    hint: "add serve to its roles:",
                    exitCode: .badInput
                )
            )
        }
        guard entry.phase == .ready else {
            return done(
                self,
                CoordinatorError(
                    "\(host) is \(entry.phase.rawValue)",
                    hint: "coord up brings it back",
                    exitCode: .unreachable
                )
            )
        }
        guard releasing.insert(host).inserted else {
            return done(
                self,
                CoordinatorError(
                    "a release to \(host) is under way",
                    hint: "try again in a moment",
                    exitCode: .locked
                )
            )
        }
        do {
            let signature = try readSignature(checkpoint.manifest)
            let program = try serveProgram()
            let (version, release) = try registry.write { transaction in
                let version = try transaction.registerVersion(
                    of: name,
                    checkpoint: checkpoint.manifest,
                    run: checkpoint.run,
                    signature: signature,
                    time: now
                )
                let release = try transaction.planRelease(
                    host: host,
                    model: name,
                    version: version.version,
                    reason: reason,
                    time: now
                )
                return (version, release)
            }
            advance(release.id, to: .sending)
            let label = version.label
            tell(self, .release(ReleaseEvent(host: host, version: label, state: "sending", detail: "")))
            let served = ServedVersion(model: name, version: version.version, checkpoint: checkpoint.manifest)
            let listen = file?.serve.listen ?? "127.0.0.1:8000"
            let setup = ServeSetup(
                program: program,
                listen: listen,
                tokenVariable: file?.serve.tokenEnvironment
            )
            let store = self.store
            let mailbox = self.mailbox
            let failed: @Sendable (any ExplainedError) -> Void = { error in
                mailbox.put(
                    .resume { $0.releaseFailed(release.id, label, host, error, tell: tell, done: done) }
                )
            }
            entry.session.transfer(
                { client in
                    try ChunkTransfer.push(program, from: store, to: client)
                    try ChunkTransfer.push(checkpoint.manifest, from: store, to: client)
                    mailbox.put(
                        .resume { coordinator in
                            coordinator.advance(release.id, to: .verifying)
                            tell(
                                coordinator,
                                .release(
                                    ReleaseEvent(host: host, version: label, state: "verifying", detail: "")
                                )
                            )
                        }
                    )
                    guard
                        case .serve(let reply) = try client.call(
                            .release(served, serve: setup),
                            timeout: 120_000
                        )
                    else {
                        throw CoordinatorError("\(host): no answer to the release", exitCode: .bug)
                    }
                    guard case .released(_, _, let difference) = reply else {
                        if case .refused(let message, let hint) = reply {
                            throw CoordinatorError("\(host): \(message)", hint: hint)
                        }
                        throw CoordinatorError("\(host): unexpected answer", exitCode: .bug)
                    }
                    mailbox.put(
                        .resume { coordinator in
                            coordinator.releasing.remove(host)
                            coordinator.advance(release.id, to: .live, difference: difference)
                            coordinator.log(
                                "release",
                                "\(label) is live on \(host)",
                                run: checkpoint.run,
                                host: host
                            )
                            tell(
                                coordinator,
                                .release(
                                    ReleaseEvent(
                                        host: host,
                                        version: label,
                                        state: "live",
                                        detail:
                                            "http://\(listen)/v2/models/\(name); golden difference \(difference)"
                                    )
                                )
                            )
                            done(coordinator, nil)
                        }
                    )
                },
                failed: failed
            )
        } catch {
            releasing.remove(host)
            done(self, explained(error))
        }
    }

    private func releaseFailed(
        _ id: Int64,
        _ label: String,
        _ host: String,
        _ error: any ExplainedError,
        tell: (Coordinator, ControlEvent) -> Void,
        done: (Coordinator, (any ExplainedError)?) -> Void
    ) {
        releasing.remove(host)
        advance(id, to: .failed, reason: error.message)
        log("release", "\(label) did not go live on \(host): \(error.message)", host: host)
        tell(
            self,
            .release(ReleaseEvent(host: host, version: label, state: "refused", detail: error.message))
        )
        done(
            self,
            CoordinatorError(
                "\(label) was not released: \(error.message)",
                hint: error.hint,
                exitCode: error.exitCode
            )
        )
    }

    /// Moves a release on; one that was superseded meanwhile stays what it is.
    func advance(
        _ id: Int64,
        to state: ReleaseState,
        reason: String? = nil,
        difference: Double? = nil
    ) {
        do {
            _ = try registry.write { transaction in
                try transaction.advanceRelease(
                    id,
                    to: state,
                    reason: reason,
                    goldenDifference: difference,
                    time: now
                )
            }
        } catch {
            logger.error("release \(id) did not become \(state.rawValue): \(error)")
        }
    }

    private func readSignature(_ manifest: Digest) throws -> ModelSignature {
        let bytes = try store.readFile(try store.manifest(manifest), "model.json")
        return try MessageCoding.decode(ModelSignature.self, from: bytes)
    }

    /// `coord-serve` as a manifest: sent like everything else, once for each build.
    private func serveProgram() throws -> Digest {
        let path = try workspace.program("coord-serve")
        return try store.putManifest(
            kind: "program",
            files: [try store.add(path, name: "coord-serve", mode: 0o755)]
        )
    }
}
