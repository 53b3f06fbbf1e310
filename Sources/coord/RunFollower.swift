internal import Basics
internal import Coordinator
internal import Foundation
internal import Wire

/// Shows what the coordinator tells until the last event; Ctrl-C detaches.
struct RunFollower {
    let console: Console
    private let hosts: HostTable

    init(console: Console) {
        self.console = console
        hosts = HostTable(console: console)
    }

    /// - Parameters:
    ///   - unknownKey: told of hosts whose key nobody knows: the host and the fingerprint.
    ///   - passphrase: told of encrypted keys whose passphrase is missing: the key's file.
    ///   - onEvent: told of every event beside.
    func follow(
        _ client: CoordinatorClient,
        _ request: ControlRequest,
        unknownKey: (String, String) -> Void = { _, _ in },
        passphrase: (String) -> Void = { _ in },
        onEvent: (ControlEvent) -> Void = { _ in }
    ) throws -> (exitCode: Basics.ExitCode, message: String?, hint: String?) {
        Self.detachOnInterrupt()
        return try client.ask(request) { event in
            onEvent(event)
            if case .unknownHostKey(let host, let fingerprint) = event { unknownKey(host, fingerprint) }
            if case .passphraseNeeded(_, let path) = event { passphrase(path) }
            if console.isJSON { console.json(event: event) } else { show(event) }
        }
    }

    private static func detachOnInterrupt() {
        signal(SIGINT) { _ in
            // Only what is safe in a signal handler: write and _exit.
            let text: StaticString =
                "\ndetached; the run goes on: coord run attach follows it, coord run stop ends it\n"
            _ = Foundation.write(2, text.utf8Start, text.utf8CodeUnitCount)
            _exit(130)
        }
    }

    private func show(_ event: ControlEvent) {
        if case .host(let host) = event { return hosts.update(host) }
        hosts.leave()
        switch event {
        case .run(let run): console.say("run \(run.run) (\(run.name)) \(run.state)\(behind(run.detail))")
        case .generation(_, let number, let members, let reason):
            let who = members.map { "\($0.host)#\($0.member) lanes \($0.lanes)" }.joined(separator: ", ")
            console.say("  generation \(number), \(reason): \(who)")
        case .step(_, let metric, let total, let speed, let left):
            let share = total > 0 ? Double(metric.step) / Double(total) : 0
            console.progress(
                "  \(bar(share)) step \(metric.step)/\(total)  loss \(metric.loss.digits(4))  "
                    + "\(speed.digits(0)) samples/s  \(duration(left)) left"
            )
        case .epoch(_, let metric, let epochs):
            console.say(
                "  epoch \(metric.epoch)/\(epochs)  step \(metric.step)  train loss \(metric.trainLoss.digits(4))  "
                    + "val loss \(metric.valLoss.digits(4))  val accuracy \(metric.valAccuracy.digits(4))  "
                    + "\(metric.seconds.digits(1)) s"
            )
        case .checkpoint(_, let epoch, let manifest, let isBest):
            console.progress(
                "  checkpoint of epoch \(epoch) is home: \(manifest.short)\(isBest ? ", the best" : "")"
            )
        case .release(let release):
            console.say("  \(release.version) on \(release.host): \(release.state)\(behind(release.detail))")
        case .route(let route): console.say("  \(route.detail)")
        case .transfer(let transfer): show(transfer)
        case .pod(let pod): console.sayFindings(of: pod)
        case .note(let text): console.say("  \(text)")
        case .drill(let report): report.lines.forEach { console.print($0) }
        case .host, .unknownHostKey, .passphraseNeeded, .prediction, .preflight, .done: break
        }
    }

    private func show(_ transfer: TransferEvent) {
        let what = "  \(transfer.host)  \(transfer.what)"
        let onTheLine = "\(ByteCount(transfer.onTheLine)) on the line"
        if transfer.isDone {
            return console.say(
                transfer.total == 0
                    ? "\(what) was there, \(onTheLine)"
                    : "\(what) sent: \(ByteCount(transfer.sent)), \(onTheLine)"
            )
        }
        guard transfer.total > 0 else { return }
        let share = Double(transfer.sent) / Double(transfer.total)
        let left = transfer.secondsLeft.map { ", \(duration($0)) left" } ?? ""
        console.progress(
            "\(what) \(bar(share)) \(ByteCount(transfer.sent)) of \(ByteCount(transfer.total))  "
                + "file \(transfer.filesDone) of \(transfer.files) \(transfer.file)  "
                + "\(ByteCount(Int64(transfer.bytesPerSecond)))/s\(left)"
        )
    }

    private func behind(_ detail: String) -> String { detail.isEmpty ? "" : "  \(detail)" }

    private func bar(_ share: Double) -> String {
        let filled = Int((min(1, share) * 20).rounded(.down))
        return "[" + String(repeating: "#", count: filled) + String(repeating: ".", count: 20 - filled) + "]"
    }
}
