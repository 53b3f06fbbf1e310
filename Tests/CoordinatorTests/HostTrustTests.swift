import Basics
import Remote
import Synchronization
import Testing
import Wire

@testable import Coordinator

@Suite struct HostTrustTests {
    private let request = UpRequest(
        fileText: "",
        path: "",
        passphrases: ["/keys/a": WireSecret(Array("open sesame".utf8))],
        who: "me"
    )

    @Test func passphraseIsSaidOnceAndAskedForWhenItDoesNotFit() throws {
        let needed = Mutex<[PassphraseQuestion]>([])
        let source = HostTrust(request).passphrase { question in needed.withLock { $0.append(question) } }
        let first = PassphraseQuestion(host: "box", path: "/keys/a", attempt: 1)
        #expect(source(first)?.value == "open sesame")
        let second = PassphraseQuestion(host: "box", path: "/keys/a", attempt: 2)
        #expect(source(second) == nil)
        let other = PassphraseQuestion(host: "box", path: "/keys/b", attempt: 1)
        #expect(source(other) == nil)
        #expect(needed.withLock { $0 } == [second, other])
    }

    @Test func passphraseTravelsButShowsItselfToNobody() throws {
        let bytes = try MessageCoding.encode(request)
        let back = try MessageCoding.decode(UpRequest.self, from: bytes)
        #expect(back.passphrases == request.passphrases)
        for text in [String(describing: request), String(reflecting: back), "\(HostTrust(back))"] {
            #expect(!text.contains("open sesame"), "\(text)")
            #expect(text.contains("[redacted]"))
        }
    }
}
