internal import Basics
internal import Wire

/// What is counted and timed, and its Prometheus text.
///
/// A value: the owner guards it.
struct ServeMetrics: Sendable {
    private struct RequestKey: Hashable {
        var model: String
        var version: String
        var code: Int
    }

    private struct VersionKey: Hashable {
        var model: String
        var version: String
    }

    private struct Histogram {
        /// Requests within each bound, not cumulative; the last counts what is above all bounds.
        var counts = [Int](repeating: 0, count: ServeMetrics.bounds.count + 1)
        var sum = 0.0
    }

    /// Upper bounds of the histogram; unit: seconds.
    static let bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
    /// What ``text(live:)`` is; Prometheus 3 refuses anything else.
    static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    private var requests: [RequestKey: Int] = [:]
    private var durations: [VersionKey: Histogram] = [:]
    private var recent: [Double] = []
    private var nextRecent = 0
    private var restarts = 0
    /// Requests since the start.
    private(set) var requestCount = 0
    /// Those that failed by our fault.
    private(set) var errorCount = 0

    /// Counts a request that was answered.
    ///
    /// - Parameters:
    ///   - version: who answered; nil when nobody was found, so that made-up names can't fill the memory.
    ///   - code: the HTTP status.
    mutating func record(version: ServedVersion?, code: Int, seconds: Double) {
        requestCount += 1
        if code >= 500 { errorCount += 1 }
        let model = version?.model ?? ""
        let number = version.map { "\($0.version)" } ?? ""
        requests[RequestKey(model: model, version: number, code: code), default: 0] += 1
        guard version != nil, code == 200 else { return }
        let bucket = Self.bounds.firstIndex { seconds <= $0 } ?? Self.bounds.count
        durations[VersionKey(model: model, version: number), default: Histogram()].counts[bucket] += 1
        durations[VersionKey(model: model, version: number)]?.sum += seconds
        if recent.count < 1000 {
            recent.append(seconds)
        } else {
            recent[nextRecent] = seconds
            nextRecent = (nextRecent + 1) % 1000
        }
    }

    /// Counts a child that was started again after its death.
    mutating func recordRestart() { restarts += 1 }

    /// 95th percentile of the last 1 000 answers; unit: seconds; 0 before the first.
    var p95: Double {
        guard !recent.isEmpty else { return 0 }
        return recent.sorted()[max(0, (recent.count * 95 + 99) / 100 - 1)]
    }

    /// The Prometheus text format 0.0.4.
    func text(live: ServedVersion?) -> String {
        var out = ""
        func head(_ name: String, _ type: String, _ help: String) {
            out += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
        }
        func labels(_ model: String, _ version: String, _ more: (String, String)? = nil) -> String {
            let pairs = [("model", model), ("version", version)] + (more.map { [$0] } ?? [])
            return "{" + pairs.map { "\($0)=\"\(Self.escaped($1))\"" }.joined(separator: ",") + "}"
        }
        head(
            "coord_inference_requests_total",
            "counter",
            "Inference requests that were answered, by HTTP status."
        )
        for (key, count) in requests.sorted(by: {
            ($0.key.model, $0.key.version, $0.key.code) < ($1.key.model, $1.key.version, $1.key.code)
        }) {
            let names = labels(key.model, key.version, ("code", "\(key.code)"))
            out += "coord_inference_requests_total\(names) \(count)\n"
        }
        head(
            "coord_inference_duration_seconds",
            "histogram",
            "Time from request to answer of those that succeeded."
        )
        for (key, histogram) in durations.sorted(by: {
            ($0.key.model, $0.key.version) < ($1.key.model, $1.key.version)
        }) {
            var sum = 0
            for (index, count) in histogram.counts.enumerated() {
                sum += count
                let bound = index < Self.bounds.count ? "\(Self.bounds[index])" : "+Inf"
                let names = labels(key.model, key.version, ("le", bound))
                out += "coord_inference_duration_seconds_bucket\(names) \(sum)\n"
            }
            out += "coord_inference_duration_seconds_sum\(labels(key.model, key.version)) \(histogram.sum)\n"
            out += "coord_inference_duration_seconds_count\(labels(key.model, key.version)) \(sum)\n"
        }
        head("coord_serve_live_info", "gauge", "Always 1; its labels name the live version.")
        if let live {
            let names = labels(live.model, "\(live.version)", ("checkpoint", live.checkpoint.hex))
            out += "coord_serve_live_info\(names) 1\n"
        }
        head(
            "coord_serve_child_restarts_total",
            "counter",
            "Model processes that died and were started again."
        )
        out += "coord_serve_child_restarts_total \(restarts)\n"
        return out
    }

    /// Label values escape backslash, quote and line feed.
    static func escaped(_ value: String) -> String {
        var out = ""
        for character in value.unicodeScalars {
            switch character {
            case "\\": out += "\\\\"
            case "\"": out += "\\\""
            case "\n": out += "\\n"
            default: out.unicodeScalars.append(character)
            }
        }
        return out
    }
}
