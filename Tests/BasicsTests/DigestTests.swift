import Basics
import Testing

@Suite struct DigestTests {
    /// FIPS 180-2, appendix B.1.
    @Test func abcHasTheDigestOfTheStandard() {
        let digest = Digest(of: "abc")
        #expect(digest.hex == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(Digest(hex: digest.hex) == digest)
        #expect(Digest(raw: digest.raw) == digest)
    }

    @Test func piecesHashLikeTheWhole() {
        var builder = DigestBuilder()
        for piece in ["a", "", "bc"] { builder.update(Array(piece.utf8)) }
        #expect(builder.finish() == Digest(of: "abc"))
    }

    @Test(arguments: ["", "abc", String(repeating: "g", count: 64), String(repeating: "A", count: 64)])
    func whatIsNoDigestIsRefused(text: String) { #expect(Digest(hex: text) == nil) }

    @Test func aWrongCodeIsNotValid() {
        let key = Redacted<[UInt8]>([1, 2, 3])
        var code = Sealing.authenticationCode(for: [9], key: key)
        #expect(Sealing.isValid(code, for: [9], key: key))
        code[0] ^= 1
        #expect(!Sealing.isValid(code, for: [9], key: key))
        #expect("\(key)" == "[redacted]")
    }

    @Test func bytesThatEndTooEarlyAreAnError() throws {
        var writer = ByteWriter()
        writer.write(UInt32(0x0102_0304))
        writer.write("text")
        writer.write(1.5)
        var reader = ByteReader(writer.bytes)
        #expect(writer.bytes.first == 4)
        #expect(try reader.read(UInt32.self) == 0x0102_0304)
        #expect(try reader.readString() == "text")
        #expect(try reader.readDouble() == 1.5)
        #expect(throws: ByteError.truncated) { try reader.read(UInt8.self) }
        var lying = ByteReader([255, 255, 255, 255, 1])
        #expect(throws: ByteError.truncated) { try lying.readString() }
    }
}
