internal import ArgumentParser
internal import Basics
internal import ClusterFile
internal import Coordinator
internal import Foundation
internal import Remote
internal import Synchronization

struct Doctor: CoordCommand {
    static let configuration = CommandConfiguration(
        abstract: "Look at this machine and the hosts, and say what is wrong and what to do.",
        discussion: """
            Example: coord doctor 3090

            Each line is one check with what was seen; nothing is changed and no key is accepted. Ends with 1 when a
            check failed.
            """
    )
    @OptionGroup var common: CommonOptions
    @Argument(help: "Only these hosts. Default: all, and this machine.")
    var hosts: [String] = []

    func perform(_ console: Console) throws {
        for host in hosts { try common.checkHost(host) }
        let file = try common.cluster()
        let workspace = try common.workspace()
        var checks = hosts.isEmpty ? WorkspaceDoctor.examine(workspace, file) : []
        checks.forEach { show($0, console) }
        let specs = file.hosts.filter { hosts.isEmpty || hosts.contains($0.name) }
        let found = Mutex<[String: [DoctorCheck]]>([:])
        let answered = DispatchSemaphore(value: 0)
        let passphrases = Passphrases(console)
        for spec in specs {
            OSThread.start(name: "doctor") {
                let checks = HostDoctor(spec, workspace: workspace, passphrase: passphrases.answer).examine()
                found.withLock { $0[spec.name] = checks }
                answered.signal()
            }
        }
        // Shown in file order, each host as soon as those before it are done.
        for spec in specs {
            while found.withLock({ $0[spec.name] }) == nil {
                console.progress("  \(spec.name)  …")
                answered.wait()
            }
            let own = found.withLock { $0[spec.name] } ?? []
            own.forEach { show($0, console) }
            checks += own
        }
        let failed = checks.filter { $0.state == .failed }
        guard let first = failed.first else { return }
        throw Outcome(
            exitCode: .failed,
            message: failed.count == 1
                ? "\(first.host.map { "\($0): " } ?? "")\(first.subject): \(first.evidence)"
                : "\(failed.count) checks failed",
            hint: first.remedy
        )
    }

    /// Asks at the terminal, one question at a time, and for each key once until the words do not fit.
    private final class Passphrases: Sendable {
        private let console: Console
        private let known = Mutex<[String: String]>([:])

        init(_ console: Console) { self.console = console }

        func answer(_ question: PassphraseQuestion) -> Redacted<String>? {
            known.withLock { known in
                if question.attempt == 1, let words = known[question.path] { return Redacted(words) }
                guard !console.isJSON, question.attempt <= 3 else { return nil }
                known[question.path] = console.secret("passphrase of \(question.path)")
                return known[question.path].map { Redacted($0) }
            }
        }
    }

    private func show(_ check: DoctorCheck, _ console: Console) {
        if console.isJSON { return console.json(check) }
        let mark =
            switch check.state {
            case .ok: "ok     "
            case .warning: "warning"
            case .failed: "FAILED "
            }
        console.print("\(mark)  \(check.host ?? "here")  \(check.subject): \(check.evidence)")
        if let remedy = check.remedy { console.print("         → \(remedy)") }
    }
}
