internal import ArgumentParser
internal import Basics
internal import Coordinator
internal import Wire

struct Preflight: CoordCommand {
    static let configuration = CommandConfiguration(
        abstract: "Try two steps of the run on all hosts, and measure the ways between them.",
        discussion: """
            Example: coord preflight

            Each host computes the first two steps of the run alone, with the run's data and all of its lanes: the sums of
            the gradients must have the same bits everywhere. Then each host dials each other one; SPEED is what TO sends
            to FROM. Then comes what each way to exchange would cost on them. Hosts that cannot dial each other train over a relay. Ends with 1 when a host can't do the steps or
            computes something else.
            """
    )
    @OptionGroup var common: CommonOptions

    private struct HostLine: Encodable {
        var type = "host"
        var host: String
        var samplesPerSecond: Double?
        var gradients: [Digest]
        var problem: String?
    }

    private struct LinkLine: Encodable {
        var type = "link"
        var from: String
        var to: String
        var roundTrip: Double?
        var bytesPerSecond: Double?
        var problem: String?
    }

    func perform(_ console: Console) throws {
        let client = try common.connected(console)
        var rows = [["FROM", "TO", "ROUND TRIP", "SPEED", ""]]
        var plan: ExchangeTable?
        var hosts = [["HOST", "SAMPLES/S", "GRADIENTS"]]
        let result = try client.ask(.preflight) { event in
            guard case .preflight(let finding) = event else { return }
            switch finding {
            case .host(let name, let gradients, let speed):
                console.json(ifAsked: HostLine(host: name, samplesPerSecond: speed, gradients: gradients))
                hosts.append([name, speed.digits(0), gradients.map(\.short).joined(separator: " ")])
                console.progress("  \(name): \(speed.digits(0)) samples/s")
            case .failure(let name, let message):
                console.json(ifAsked: HostLine(host: name, gradients: [], problem: message))
                hosts.append([name, "-", message])
            case .link(let from, let found):
                console.json(
                    ifAsked: LinkLine(
                        from: from,
                        to: found.host,
                        roundTrip: found.problem == nil ? found.roundTrip : nil,
                        bytesPerSecond: found.problem == nil ? found.bytesPerSecond : nil,
                        problem: found.problem
                    )
                )
                rows.append(Self.row(from, found))
                console.progress("  \(from) → \(found.host)")
            case .plan(let forecasts, let chosen, let reason):
                plan = ExchangeTable(forecasts, chosen: chosen, reason: reason)
            }
        }
        if !console.isJSON {
            console.say("")
            console.table(hosts)
            console.table(rows)
        }
        plan?.print(console)
        try Outcome.check(result)
    }

    private static func row(_ from: String, _ found: ProbeResult) -> [String] {
        if let problem = found.problem {
            return [from, found.host, "-", "-", "cannot be dialled: \(problem)"]
        }
        return [
            from, found.host, "\((found.roundTrip * 1000).digits(2)) ms",
            "\((found.bytesPerSecond / 1e6).digits(0)) MB/s", "",
        ]
    }
}
