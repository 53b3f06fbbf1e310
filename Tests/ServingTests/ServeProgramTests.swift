import Basics
import Glibc
import Synchronization
import Testing
import Wire

@testable import Serving

private let sample: [Double] = [1, 2, 3, 4, 0.25, -1, 0, 7]

private func expectClose(_ a: [Double], _ b: [Double], within tolerance: Double = 1e-5) {
    #expect(a.count == b.count)
    for (x, y) in zip(a, b) { #expect(abs(x - y) <= tolerance, "\(a) and \(b)") }
}

@Suite(.serialized) struct ServeProgramTests {
    @Test(.timeLimit(.minutes(5)))
    func releasedVersionAnswersOverHTTPAndTheAdminSocket() throws {
        try withServeFolder { folder in
            let model = ToyModel()
            try model.write(to: "\(folder)/v1")
            let serve = try ServeProcess("\(folder)/serve")
            #expect(try serve.http("GET", "/v2/health/live").status == 200)
            #expect(try serve.http("GET", "/v2/health/ready").status == 503)
            #expect(try serve.infer(sample).status == 503)

            guard case .released(let live, nil, let difference) = try serve.release(1, "\(folder)/v1") else {
                Issue.record("not released")
                return
            }
            #expect(live == ServeProcess.version(1))
            #expect(difference < 1e-5)
            #expect(try serve.http("GET", "/v2/health/ready").status == 200)
            let reply = try serve.infer(sample)
            #expect(reply.version == "1")
            expectClose(reply.logits, model.logits(sample))
            #expect(reply.text.contains("\"data\":[\"cat\",\"cat\"]"))

            guard
                case .prediction(_, let classes, let probabilities) = try serve.ask(
                    .predict(count: 4),
                    values: [1, 2, 3, 4]
                )
            else {
                Issue.record("not predicted")
                return
            }
            #expect(classes == ToyModel.classes)
            let powers = model.logits([1, 2, 3, 4]).map { exp($0) }
            expectClose(probabilities, powers.map { $0 / powers.reduce(0, +) })

            guard case .status(let status) = try serve.ask(.status) else {
                Issue.record("no status")
                return
            }
            #expect(status.live == live)
            #expect(status.listen == serve.address)
            #expect(status.requests == 3)
            #expect(status.errors == 1)
            #expect(status.p95Milliseconds > 0)
            #expect(serve.stop() == .exited(0))
            #expect(Files.kind("\(folder)/serve/serve.sock") == nil)
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func failingReleaseLeavesTheOldVersionServing() throws {
        try withServeFolder { folder in
            let model = ToyModel()
            try model.write(to: "\(folder)/v1")
            try ToyModel(scale: 2).write(to: "\(folder)/wrong", wrong: 0.001)
            try ToyModel(scale: 2).write(to: "\(folder)/torn")
            let torn = try Files.read("\(folder)/torn/model.safetensors").dropLast(5)
            try Files.writeAtomically(Array(torn), to: "\(folder)/torn/model.safetensors")
            let serve = try ServeProcess("\(folder)/serve")
            _ = try serve.release(1, "\(folder)/v1")
            for (name, word) in [
                ("wrong", "golden examples"), ("torn", "safetensors"), ("none", "model.json"),
            ] {
                guard case .refused(let message, let hint) = try serve.release(2, "\(folder)/\(name)") else {
                    Issue.record("\(name) was released")
                    continue
                }
                #expect(message.contains(word) && message.contains("toy@2"))
                #expect(hint != nil)
            }
            expectClose(try serve.infer(sample).logits, model.logits(sample))
            #expect(serve.stop() == .exited(0))
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func switchUnderLoadLosesNoRequestAndMixesNoVersions() throws {
        try withServeFolder { folder in
            let models = [1: ToyModel(), 2: ToyModel(scale: -1)]
            for (number, model) in models { try model.write(to: "\(folder)/v\(number)") }
            let serve = try ServeProcess("\(folder)/serve")
            _ = try serve.release(1, "\(folder)/v1")
            let isOver = Atomic(false)
            let seen = Mutex<[String: Int]>([:])
            let group = ThreadGroup()
            for _ in 0..<4 {
                group.start {
                    while !isOver.load(ordering: .acquiring) {
                        guard let reply = try? serve.infer(sample), let version = Int(reply.version ?? ""),
                            let model = models[version],
                            zip(reply.logits, model.logits(sample)).allSatisfy({ abs($0 - $1) < 1e-5 })
                        else {
                            seen.withLock { $0["bad", default: 0] += 1 }
                            return
                        }
                        seen.withLock { $0["\(version)", default: 0] += 1 }
                    }
                }
            }
            for round in 0..<10 {
                let reply = try round == 0 ? serve.release(2, "\(folder)/v2") : serve.ask(.rollback)
                guard case .released = reply else {
                    Issue.record("\(reply)")
                    break
                }
            }
            isOver.store(true, ordering: .releasing)
            group.wait()
            let counts = seen.withLock(\.self)
            #expect(counts["bad"] == nil)
            #expect((counts["1"] ?? 0) + (counts["2"] ?? 0) >= 4)
            #expect(serve.stop() == .exited(0))
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func rollbackTakesLessThanASecondAndGoesBothWays() throws {
        try withServeFolder { folder in
            try ToyModel().write(to: "\(folder)/v1")
            try ToyModel(scale: -1).write(to: "\(folder)/v2")
            let serve = try ServeProcess("\(folder)/serve")
            guard case .refused = try serve.ask(.rollback) else {
                Issue.record("rolled back to nothing")
                return
            }
            _ = try serve.release(1, "\(folder)/v1")
            _ = try serve.release(2, "\(folder)/v2")
            #expect(try serve.infer(sample).version == "2")
            #expect(try serve.infer(sample, path: "/v2/models/toy/versions/1/infer").version == "1")
            let start = ContinuousClock.now
            _ = try serve.ask(.rollback)
            #expect(start.duration(to: .now) < .seconds(1))
            #expect(try serve.infer(sample).version == "1")
            // Also when the process of the previous version is gone: its files are there.
            let idle = try #require(serve.child("\(folder)/v2"))
            kill(idle.pid, SIGKILL)
            #expect(idle.waitForEnd(milliseconds: 10_000))
            _ = try serve.ask(.rollback)
            #expect(try serve.infer(sample).version == "2")
            #expect(serve.stop() == .exited(0))
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func killedChildIsStartedAgainAndOneThatKeepsDyingGivesWay() throws {
        try withServeFolder { folder in
            try ToyModel().write(to: "\(folder)/v1")
            try ToyModel(scale: -1).write(to: "\(folder)/v2")
            let serve = try ServeProcess("\(folder)/serve")
            _ = try serve.release(1, "\(folder)/v1")
            _ = try serve.release(2, "\(folder)/v2")
            for round in 1...4 {
                let child = try #require(serve.child("\(folder)/v2"))
                kill(child.pid, SIGKILL)
                #expect(child.waitForEnd(milliseconds: 10_000))
                let reply = try serve.infer(sample)
                #expect(reply.status == 200)
                #expect(reply.version == (round < 4 ? "2" : "1"))
            }
            let text = String(decoding: try serve.http("GET", "/metrics").body, as: UTF8.self)
            #expect(text.contains("coord_serve_child_restarts_total 3\n"))
            #expect(serve.stop() == .exited(0))
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func childrenDieWithTheRouterAndTheLiveVersionComesBack() throws {
        try withServeFolder { folder in
            try ToyModel().write(to: "\(folder)/v1")
            let first = try ServeProcess("\(folder)/serve")
            _ = try first.release(1, "\(folder)/v1")
            let second = try ServeProcess("\(folder)/serve")
            #expect(second.process.wait() == .exited(75))
            let child = try #require(first.child("\(folder)/v1"))
            first.process.signal(SIGKILL)
            #expect(first.process.wait() == .signalled(9))
            #expect(child.waitForEnd(milliseconds: 10_000))
            let third = try ServeProcess("\(folder)/serve")
            #expect(try third.infer(sample).version == "1")
            #expect(try third.ask(.stop) == .stopping)
            #expect(third.process.wait() == .exited(0))
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func requestsThatAreWrongAreAnsweredWithTheirStatusAndReason() throws {
        try withServeFolder { folder in
            try ToyModel().write(to: "\(folder)/v1")
            let serve = try ServeProcess("\(folder)/serve")
            _ = try serve.release(1, "\(folder)/v1")
            func refusal(
                _ method: String,
                _ path: String,
                _ body: String,
                _ headers: [String] = []
            ) throws -> (
                Int, String
            ) {
                let reply = try serve.http(method, path, headers: headers, body: Array(body.utf8))
                #expect(reply.headers["content-type"] == "application/json")
                return (reply.status, try JSON(reply.body)["error"]?.text ?? "")
            }
            let shape =
                "{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1,3],\"data\":[1,2,3]}]}"
            let (status, reason) = try refusal("POST", "/v2/models/toy/infer", shape)
            #expect(status == 400)
            #expect(reason.contains("[1,3]") && reason.contains("[-1,4]"))
            #expect(try refusal("POST", "/v2/models/cow/infer", shape).0 == 404)
            #expect(try refusal("POST", "/v2/models/toy/versions/9/infer", shape).0 == 404)
            #expect(try refusal("GET", "/v2/models/toy/infer", "").0 == 405)
            #expect(try refusal("GET", "/v3", "").0 == 404)
            #expect(try refusal("POST", "/v2/models/toy/infer", "{\"inputs\":[").0 == 400)
            #expect(try refusal("POST", "/v2/models/toy/infer", shape, ["Content-Encoding: gzip"]).0 == 415)
            let large = try serve.http(
                "POST",
                "/v2/models/toy/infer",
                body: [UInt8](repeating: 0x20, count: (32 << 20) + 1)
            )
            #expect(large.status == 413)
            #expect(try serve.infer(sample).status == 200)
            #expect(serve.stop() == .exited(0))
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func binaryTensorsGoBothWays() throws {
        try withServeFolder { folder in
            let model = ToyModel()
            try model.write(to: "\(folder)/v1")
            let serve = try ServeProcess("\(folder)/serve")
            _ = try serve.release(1, "\(folder)/v1")
            let rows = 100
            let pixels = (0..<rows * ToyModel.features).map { UInt8(truncatingIfNeeded: $0 * 7) }
            let head = Array(
                """
                {"inputs":[{"name":"x","datatype":"UINT8","shape":[\(rows),4],\
                "parameters":{"binary_data_size":\(pixels.count)}}],"outputs":[{"name":"logits",\
                "parameters":{"binary_data":true}},{"name":"label","parameters":{"binary_data":true}}]}
                """.utf8
            )
            let reply = try serve.http(
                "POST",
                "/v2/models/toy/infer",
                headers: ["Inference-Header-Content-Length: \(head.count)"],
                body: head + pixels
            )
            #expect(reply.status == 200)
            let split = try #require(Int(reply.headers["inference-header-content-length"] ?? ""))
            let size = rows * 3 * 4
            let logits = RawValues.values(Float.self, reply.body[split..<(split + size)])
            expectClose(logits.map { Double($0) }, model.logits(pixels.map { Double($0) }), within: 1e-3)
            let labels = reply.body[(split + size)...]
            #expect(labels.starts(with: [3, 0, 0, 0] + Array("cat".utf8)))
            #expect(labels.count == rows * 7)
            #expect(serve.stop() == .exited(0))
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func metricsCountWhatWasAnswered() throws {
        try withServeFolder { folder in
            try ToyModel().write(to: "\(folder)/v1")
            let serve = try ServeProcess("\(folder)/serve")
            _ = try serve.release(1, "\(folder)/v1")
            for _ in 0..<3 { _ = try serve.infer(sample) }
            _ = try serve.infer([1, 2, 3, 4], path: "/v2/models/cow/infer")
            let reply = try serve.http("GET", "/metrics")
            #expect(reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8")
            let text = String(decoding: reply.body, as: UTF8.self)
            #expect(
                text.contains("coord_inference_requests_total{model=\"toy\",version=\"1\",code=\"200\"} 3\n")
            )
            #expect(text.contains("coord_inference_requests_total{model=\"\",version=\"\",code=\"404\"} 1\n"))
            #expect(text.contains("coord_inference_duration_seconds_count{model=\"toy\",version=\"1\"} 3\n"))
            let checkpoint = ServeProcess.version(1).checkpoint.hex
            #expect(text.contains("version=\"1\",checkpoint=\"\(checkpoint)\"} 1\n"))
            #expect(serve.stop() == .exited(0))
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func tokenIsAskedForOnInferenceAndMetrics() throws {
        try withServeFolder { folder in
            try ToyModel().write(to: "\(folder)/v1")
            let options = ["--token-env", "SERVE_TEST_TOKEN"]
            let serve = try ServeProcess("\(folder)/serve", more: options, token: "sesame")
            _ = try serve.release(1, "\(folder)/v1")
            #expect(try serve.infer(sample).status == 401)
            #expect(try serve.infer(sample, headers: ["Authorization: Bearer sesam"]).status == 401)
            #expect(try serve.infer(sample, headers: ["Authorization: Bearer sesame"]).status == 200)
            #expect(try serve.http("GET", "/metrics").status == 401)
            #expect(try serve.http("GET", "/v2/health/ready").status == 200)
            #expect(serve.stop() == .exited(0))
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func listenerThatOthersCanReachNeedsAToken() throws {
        try withServeFolder { folder in
            let open = try ServeProcess("\(folder)/serve", listen: "0.0.0.0:0")
            #expect(open.process.wait() == .exited(65))
            #expect(open.log.contains("without a token") && open.log.contains("hint: give --token-env"))
            let empty = try ServeProcess("\(folder)/serve", more: ["--token-env", "NOT_SET_ANYWHERE"])
            #expect(empty.process.wait() == .exited(65))
        }
    }

    @Test(.timeLimit(.minutes(5)))
    func modelThatNeedsMoreMemoryThanItsLimitIsRefused() throws {
        try withServeFolder { folder in
            try ToyModel().write(to: "\(folder)/v1")
            let large = [UInt8](repeating: 0, count: 64 << 20)
            try Files.writeAtomically(large, to: "\(folder)/v1/model.safetensors")
            let serve = try ServeProcess("\(folder)/serve", more: ["--child-memory", "1000000"])
            guard case .refused(let message, _) = try serve.release(1, "\(folder)/v1") else {
                Issue.record("released within 1 MB")
                return
            }
            #expect(message.contains("toy@1") && message.contains("killed by signal"))
            #expect(try serve.http("GET", "/v2/health/live").status == 200)
            #expect(serve.stop() == .exited(0))
        }
    }
}

/// Threads that a test waits for.
private final class ThreadGroup: Sendable {
    private let ended = Mutex<[Int32]>([])

    func start(_ body: @escaping @Sendable () -> Void) {
        var ends: [Int32] = [-1, -1]
        pipe(&ends)
        let writing = ends[1]
        let reading = ends[0]
        ended.withLock { $0.append(reading) }
        OSThread.start(name: "serve") {
            body()
            close(writing)
        }
    }

    func wait() {
        for reading in ended.withLock(\.self) {
            var byte: UInt8 = 0
            _ = read(reading, &byte, 1)
            close(reading)
        }
    }
}
