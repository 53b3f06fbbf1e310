import Basics
import Testing
import Wire

@testable import Serving

@Suite struct ServeRouteTests {
    @Test(arguments: [
        ("GET", "/v2", ServeRoute.server), ("GET", "/v2/", .server), ("GET", "/v2/health/live", .live),
        ("GET", "/v2/health/ready", .ready), ("GET", "/metrics", .metrics),
        ("POST", "/v2/repository/index", .repositoryIndex),
        ("GET", "/v2/models/a", .model("a", version: nil)),
        ("GET", "/v2/models/a/versions/3", .model("a", version: 3)),
        ("GET", "/v2/models/a/versions/3/ready", .modelReady("a", version: 3)),
        ("POST", "/v2/models/a%2Fb/infer", .infer("a/b", version: nil)),
        ("POST", "/v2/models/a/versions/12/infer", .infer("a", version: 12)),
    ])
    func pathsOfTheProtocolAreFound(method: String, path: String, route: ServeRoute) throws {
        #expect(try ServeRoute(method: method, path: path) == route)
    }

    @Test(arguments: [
        ("GET", "/", 404), ("GET", "/v2/models", 404), ("GET", "/v2/models/a/b", 404),
        ("GET", "/v2/models/a/versions", 404), ("GET", "/v2/models/a/versions/x", 404),
        ("POST", "/v2/models/a/infer/b", 404), ("GET", "/v2/models/a/infer", 405), ("POST", "/metrics", 405),
    ])
    func otherPathsAreRefused(method: String, path: String, status: Int) {
        let error = #expect(throws: ServingError.self) { try ServeRoute(method: method, path: path) }
        #expect(error?.httpStatus == status)
    }
}

@Suite struct ServeMetricsTests {
    private let version = ServedVersion(model: "a\"b", version: 1, checkpoint: Digest(of: ""))

    @Test func histogramIsCumulativeAndEndsWithInfinity() {
        var metrics = ServeMetrics()
        for seconds in [0.0005, 0.001, 0.003, 99] {
            metrics.record(version: version, code: 200, seconds: seconds)
        }
        let text = metrics.text(live: version)
        let names = "coord_inference_duration_seconds_bucket{model=\"a\\\"b\",version=\"1\""
        #expect(text.contains("\(names),le=\"0.001\"} 2\n"))
        #expect(text.contains("\(names),le=\"0.005\"} 3\n"))
        #expect(text.contains("\(names),le=\"10.0\"} 3\n"))
        #expect(text.contains("\(names),le=\"+Inf\"} 4\n"))
        #expect(text.contains("_count{model=\"a\\\"b\",version=\"1\"} 4\n"))
        #expect(text.contains("coord_serve_live_info{model=\"a\\\"b\",version=\"1\",checkpoint="))
    }

    @Test func refusalsAreCountedByStatusAndOursAreErrors() {
        var metrics = ServeMetrics()
        metrics.record(version: version, code: 400, seconds: 1)
        metrics.record(version: nil, code: 404, seconds: 1)
        metrics.record(version: version, code: 503, seconds: 1)
        #expect(metrics.requestCount == 3)
        #expect(metrics.errorCount == 1)
        #expect(metrics.p95 == 0)
        #expect(!metrics.text(live: nil).contains("_bucket{"))
    }

    @Test func percentileIsOverTheLastThousand() {
        var metrics = ServeMetrics()
        for _ in 0..<500 { metrics.record(version: version, code: 200, seconds: 1000) }
        for value in 1...1000 { metrics.record(version: version, code: 200, seconds: Double(value)) }
        #expect(metrics.p95 == 950)
    }

    @Test func samplesOfAMetricStandTogether() {
        var metrics = ServeMetrics()
        metrics.record(version: version, code: 200, seconds: 1)
        var seen: [String] = []
        for line in metrics.text(live: version).split(separator: "\n") where line.hasPrefix("# TYPE ") {
            seen.append(String(line.split(separator: " ")[2]))
        }
        #expect(seen.count == Set(seen).count)
        #expect(seen.count == 4)
    }
}

@Suite struct ServeOptionsTests {
    @Test func routerOptionsAreRead() throws {
        let options = try ServeOptions(["--listen", "localhost:80", "--directory", "/d", "--token-env", "T"])
        guard case .router(let router) = options else {
            Issue.record("\(options)")
            return
        }
        #expect(router.listen.text == "127.0.0.1:80")
        #expect(router.tokenVariable == "T")
        #expect(try router.token { $0 == "T" ? "secret" : nil }?.value == "secret")
        #expect(throws: ServingError.self) { try router.token { _ in "" } }
    }

    @Test(arguments: [
        [], ["--directory", "/d"], ["--directory"], ["--port", "1"],
        ["--directory", "", "--listen", "127.0.0.1:1"],
        ["child"], ["child", "--folder", "/f", "--kernels", "v9"],
        ["child", "--folder", "/f", "--memory", "-1"],
    ])
    func wrongCommandLineIsExit64(arguments: [String]) {
        #expect(throws: ServingError.self) { try ServeOptions(arguments) }
    }

    @Test(arguments: ["example.org:80", "127.0.0.1", "127.0.0.1:99999", ":80", "1.2.3:80"])
    func addressThatIsNoNumberIsExit65(text: String) {
        let error = #expect(throws: ServingError.self) { try ListenAddress(text) }
        #expect(error?.exitCode == .badInput)
    }

    @Test(arguments: [
        ("127.0.0.1:1", true), ("127.9.9.9:1", true), ("[::1]:1", true), ("0.0.0.0:1", false),
        ("[::]:1", false),
        ("192.168.1.1:1", false), ("[fe80::1]:1", false),
    ])
    func loopbackIsRecognised(text: String, isLoopback: Bool) throws {
        #expect(try ListenAddress(text).isLoopback == isLoopback)
    }

    @Test func tokenIsComparedAsAWhole() {
        let token = BearerToken(Redacted("sesame"))
        #expect(token.accepts("Bearer sesame"))
        #expect(token.accepts("bearer sesame"))
        for wrong in [nil, "", "Bearer ", "Bearer sesam", "Bearer sesamee", "Basic sesame", "sesame"] {
            #expect(!token.accepts(wrong))
        }
    }
}

@Suite struct SoftmaxTests {
    @Test func probabilitiesOfLargeLogitsSumToOne() {
        let values = Softmax.probabilities([1000, 999, -1000, 0, 0, 0], classes: 3)
        #expect(abs(values[0] - 0.731_058_578_630_004_9) < 1e-15)
        #expect(values[2] == 0)
        #expect(values[3] == 1.0 / 3)
        #expect(abs(values[..<3].reduce(0, +) - 1) < 1e-15)
    }
}
