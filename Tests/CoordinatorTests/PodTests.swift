import Basics
import ClusterFile
import CoordTesting
import Testing

@testable import Coordinator

/// What is made of the replies of a provider's API.
@Suite struct PodReplyTests {
    private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

    @Test func aPodOfVersion2() throws {
        let pod = try #require(
            Pod(
                reply: bytes(
                    """
                    {"id":"abc123","name":"coord-lab-1","status":"RUNNING","cost":0.34,
                     "ssh":{"direct":{"host":"203.0.113.7","port":40022,"username":"root","command":"ssh"},"proxy":null},
                     "runtime":{"uptime":17},"locked":false}
                    """
                )
            )
        )
        #expect(pod.id == "abc123" && pod.name == "coord-lab-1" && pod.status == .running)
        #expect(pod.pricePerHour == 0.34 && pod.bills)
        #expect(pod.place == Pod.Place(address: "203.0.113.7", port: 40022, user: "root"))
    }

    @Test func aPodOfVersion1() throws {
        let list = try #require(
            PodList(
                reply: bytes(
                    """
                    [{"id":"old1","name":"x","desiredStatus":"RUNNING","costPerHr":"0.74","publicIp":"198.51.100.2",
                      "portMappings":{"22":10341}},
                     {"id":"old2","name":"y","desiredStatus":"EXITED","publicIp":"","portMappings":null}]
                    """
                )
            )
        )
        #expect(list.unreadable == 0)
        #expect(list.pods[0].place == Pod.Place(address: "198.51.100.2", port: 10341))
        #expect(list.pods[0].pricePerHour == 0.74)
        #expect(list.pods[1].status == .exited && list.pods[1].place == nil && !list.pods[1].bills)
    }

    @Test func aPortThatOnlyTheRuntimeTells() throws {
        let text = """
            {"id":"a","status":"RUNNING","ssh":{"direct":null},"runtime":{"ports":[
              {"private":8888,"public":1,"type":"http","ip":"10.0.0.1"},
              {"private":22,"public":20022,"type":"tcp","ip":"203.0.113.9"}]}}
            """
        #expect(Pod(reply: bytes(text))?.place == Pod.Place(address: "203.0.113.9", port: 20022))
    }

    @Test(arguments: [
        "", "<html>Sign in</html>", "null", "7", "\"pods\"", "{}", #"{"pods":null}"#, #"{"pods":{"id":"a"}}"#,
        #"{"id":"a"}"#, String(repeating: "[", count: 100_000),
        String(repeating: #"{"pods":"#, count: 10_000),
        "\u{0}", #"{"pods":[}"#,
    ])
    func whatIsNoListIsNone(_ text: String) { #expect(PodList(reply: bytes(text)) == nil) }

    @Test func entriesWithoutAnIDAreCountedAndLeftOut() throws {
        let list = try #require(
            PodList(
                reply: bytes(
                    #"{"pods":[{"id":7},{"name":"x"},"y",null,{"id":"-rf"},{"id":"a b"},{"id":"a/../b"},{"id":"ok"}]}"#
                )
            )
        )
        #expect(list.pods.map(\.id) == ["ok"])
        #expect(list.unreadable == 7)
        #expect(list.pods[0].status == .other("unknown") && !list.pods[0].bills)
    }

    @Test(arguments: [
        #"{"host":"-oProxyCommand=x","port":22}"#, #"{"host":"a b","port":22}"#, #"{"host":"","port":22}"#,
        #"{"host":"a","port":0}"#, #"{"host":"a","port":65536}"#, #"{"host":"a","port":-1}"#,
        #"{"host":"a","port":2.5}"#,
        #"{"host":"a"}"#, #"{"host":["a"],"port":22}"#, "[]", "7", "null", #"{"host":"a\nb","port":22}"#,
    ])
    func aPlaceThatIsNoneIsNone(_ direct: String) throws {
        let pod = try #require(
            Pod(reply: bytes(#"{"id":"a","status":"RUNNING","ssh":{"direct":\#(direct)}}"#))
        )
        #expect(pod.place == nil)
    }

    @Test func oddPricesAndNamesDoNoHarm() throws {
        let pod = try #require(
            Pod(reply: bytes(#"{"id":"a","name":"x\u001b[2Jy\n","status":"RUNNING","cost":-3}"#))
        )
        #expect(pod.pricePerHour == nil && pod.name == "x [2Jy ")
        #expect(pod.bills, "running, and nobody says that it is free")
        let long = try #require(
            Pod(reply: bytes(#"{"id":"a","name":"\#(String(repeating: "n", count: 9999))"}"#))
        )
        #expect(long.name.count == 80)
    }

    @Test func whereAPodWithoutAPlaceIsSaysWhy() throws {
        func code(_ status: String) -> PodError.Code? {
            let pod = Pod(reply: bytes(#"{"id":"a","status":"\#(status)"}"#))
            return #expect(throws: PodError.self) { _ = try PodAccount.place(of: #require(pod)) }?.code
        }
        #expect(code("TERMINATED") == .gone)
        #expect(code("EXITED") == .notReady)
        #expect(code("PROVISIONING") == .notReady)
        #expect(code("RUNNING") == .notReady)
    }
}

/// What a reply's status means.
@Suite struct PodAnswerTests {
    private func answer(
        _ status: Int,
        _ body: String = "",
        _ headers: [String: String] = [:],
        pod: String? = nil
    ) -> PodAnswer {
        PodAnswer(
            HTTPReply(status: status, headers: headers, body: Array(body.utf8)),
            pod: pod,
            secret: "rpa_s3cret"
        )
    }

    private func code(_ answer: PodAnswer) -> PodError.Code? {
        if case .refused(let code, _, _, _) = answer { code } else { nil }
    }

    @Test func eachStatusHasItsMeaning() {
        #expect(answer(200, "[]") == .body(Array("[]".utf8)))
        #expect(code(answer(401)) == .keyRefused)
        #expect(code(answer(403)) == .keyRefused)
        #expect(code(answer(500)) == .unreachable)
        #expect(code(answer(503, "<html>")) == .unreachable)
        #expect(code(answer(302)) == .nonsense)
        #expect(code(answer(400)) == .nonsense)
        for status in [405, 410, 501] { #expect(answer(status) == .otherVersion) }
    }

    @Test func aMissingPodIsToldFromAMissingAPI() {
        let problem = #"{"title":"Not Found","status":404,"detail":"no such pod"}"#
        #expect(code(answer(404, problem, pod: "a")) == .gone)
        #expect(answer(404, "<html>404</html>", pod: "a") == .otherVersion)
        #expect(answer(404, problem) == .otherVersion)
    }

    @Test(arguments: [
        ("17", 17), ("", 10), ("soon", 10), ("-5", 1), ("999999999", 3600), ("99999999999999999999", 10),
    ])
    func peaceIsKeptAsLongAsIsAsked(_ header: String, _ seconds: Int) {
        guard case .refused(.tooMany, _, _, let wait) = answer(429, "", ["retry-after": header]) else {
            Issue.record("429 is no refusal")
            return
        }
        #expect(wait == .seconds(seconds))
    }

    @Test func problemsAreShownWithoutSecretsAndControls() {
        let body = #"{"title":"Bad","detail":"key rpa_s3cret\u001b[2J","errors":[{"detail":"one"},"two",7]}"#
        guard case .refused(_, let message, _, _) = answer(401, body) else {
            Issue.record("401 is no refusal")
            return
        }
        #expect(message.hasSuffix("(401): Bad; key [redacted] [2J; one; two"), "\(message)")
    }

    @Test func largeRepliesAreRefused() {
        #expect(code(answer(200, String(repeating: "x", count: PodAnswer.sizeLimit + 1))) == .nonsense)
    }

    @Test func repliesAreReadBehindInterimOnes() {
        let text =
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/2 429 \r\nRetry-After:  7\r\nX: 1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
        let reply = HTTPReply(Array(text.utf8))
        #expect(reply?.status == 429 && reply?.headers["retry-after"] == "7")
        #expect(reply?.body == Array("HTTP/1.1 200 OK\r\n\r\n".utf8), "a body may look as it likes")
    }

    @Test(arguments: [
        "", "SSH-2.0-OpenSSH", "HTTP/1.1 200 OK\r\nno end", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1\r\n\r\n",
        "HTTP/\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 99 x\r\n\r\n", "\r\n\r\n",
    ])
    func whatIsNoReplyIsNone(_ text: String) { #expect(HTTPReply(Array(text.utf8)) == nil) }

    @Test func aKeyGoesOverTLSOrStaysHere() throws {
        #expect(
            try PodAccount.urls(base: nil, pod: "a") == [
                "https://api.runpod.io/v2/pods/a", "https://rest.runpod.io/v1/pods/a",
            ]
        )
        #expect(
            try PodAccount.urls(base: "http://127.0.0.1:8/", pod: nil) == [
                "http://127.0.0.1:8/v2/pods", "http://127.0.0.1:8/v1/pods",
            ]
        )
        for base in [
            "http://example.org", "http://127.0.0.1.example.org", "http://localhost@example.org", "ftp://x",
            "",
            "https://x\" output = \"/etc/passwd", "https://a b", "http://127.0.0.1:80@example.org/",
        ] {
            #expect(throws: PodError.self, "\(base)") { try PodAccount.urls(base: base, pod: nil) }
        }
    }

    @Test func aKeyIsNoConfiguration() {
        for key in ["a\"\noutput = \"/tmp/x", "a b", "a\\", "schlüssel"] {
            #expect(throws: PodError.self) { try PodAccount.configuration(url: "https://x", key: key) }
        }
    }
}

/// What the account's pods are, held against the cluster.
@Suite struct PodComparisonTests {
    private func pod(
        _ id: String,
        _ status: Pod.Status = .running,
        price: Double? = 0.34,
        name: String = "n"
    ) -> Pod {
        Pod(id: id, name: name, status: status, pricePerHour: price, place: nil)
    }

    /// What is odd about each pod, `id:oddity`.
    private func odd(_ uses: [PodUse], _ pods: [Pod], known: [String: String] = [:]) -> [String] {
        PodComparison(cluster: "lab", uses: uses, known: known).reports(of: PodList(pods: pods)).flatMap {
            report in
            report.findings.map { "\(report.pod):\($0.oddity.rawValue)" }
        }
    }

    @Test func allIsWell() {
        #expect(odd([PodUse(host: "h", pod: "a", pricePerHour: 0.34)], [pod("a"), pod("foreign")]) == [])
        #expect(odd([PodUse(host: "h", pod: "a")], [pod("a", .starting)]) == [])
        #expect(odd([], [pod("foreign", name: "coord-other-1")]) == [])
    }

    @Test func whatBillsWithoutUseIsNamed() {
        let idle = PodUse(host: "h", pod: "a", need: .unneeded("its host is down"))
        #expect(odd([idle], [pod("a")]) == ["a:unused"])
        #expect(odd([idle], [pod("a", price: nil)]) == ["a:unused"])
        #expect(odd([idle], [pod("a", price: 0)]) == [])
        #expect(odd([idle], [pod("a", .exited, price: 0)]) == ["a:stopped"])
    }

    @Test func whatWasDeletedOrStoppedIsNamed() {
        let use = PodUse(host: "h", pod: "a")
        #expect(odd([use], []) == ["a:gone"])
        #expect(odd([use], [pod("a", .terminated)]) == ["a:gone"])
        #expect(odd([use], [pod("a", .exited)]) == ["a:stopped"])
        #expect(odd([use], [pod("a", .error)]) == ["a:stopped"])
    }

    @Test func whatTheFileLostIsNamed() {
        #expect(odd([], [pod("z", name: "coord-lab-2")]) == ["z:untracked"])
        #expect(odd([], [pod("z", .exited, name: "coord-lab-2")]) == ["z:untracked"], "its disk bills")
        #expect(odd([], [pod("z", .terminated, name: "coord-lab-2")]) == [])
        #expect(odd([], [pod("z")], known: ["z": "h"]) == ["z:untracked"])
        #expect(odd([], [pod("z", name: "coord-laboratory-2")]) == [], "another cluster's")
    }

    @Test func anotherPriceIsNamed() {
        #expect(odd([PodUse(host: "h", pod: "a", pricePerHour: 0.3)], [pod("a")]) == ["a:price"])
        #expect(odd([PodUse(host: "h", pod: "a", pricePerHour: 0.3401)], [pod("a")]) == [], "rounded")
        #expect(odd([PodUse(host: "h", pod: "a", pricePerHour: 0)], [pod("a")]) == ["a:price"])
        #expect(odd([PodUse(host: "h", pod: "a", pricePerHour: 0.3)], [pod("a", price: nil)]) == [])
    }

    @Test func aPodThatIsListedTwiceIsOne() {
        let reports = PodComparison(cluster: "lab", uses: [PodUse(host: "h", pod: "a")], known: [:])
            .reports(of: PodList(pods: [pod("a"), pod("a", .terminated)]))
        #expect(reports.count == 1 && reports[0].findings.isEmpty)
    }
}
