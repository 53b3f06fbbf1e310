import Testing

@testable import Basics

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

@Suite struct DigestPairTests {
    /// Around the sizes of a block and of what fits beside its padding.
    private static let sizes = [0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 1000, 4096, 65_537, 300_000]

    private func bytes(_ count: Int, seed: UInt8) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) ^ seed }
    }

    @Test func piecesSideBySideHashAsAlone() {
        for (shift, _) in Self.sizes.enumerated() {
            let sizes = Self.sizes[shift...] + Self.sizes[..<shift]
            let pieces = sizes.enumerated().map { bytes($1, seed: UInt8($0)) }
            var found: [Digest] = []
            func collect(_ rest: ArraySlice<[UInt8]>, _ open: [UnsafeRawBufferPointer]) {
                guard let first = rest.first else { return found = Digest.each(of: open) }
                first.withUnsafeBytes { collect(rest.dropFirst(), open + [$0]) }
            }
            collect(pieces[...], [])
            #expect(found == pieces.map { Digest(of: $0) })
        }
    }

    @Test(arguments: [true, false])
    func aStreamThatIsCutHashesAsWholeAndPieces(paired: Bool) {
        var builder = CutDigestBuilder(paired: paired)
        var all: [UInt8] = []
        for (number, window) in [[100, 64, 1], [7], [], [300_000, 65_537, 63], [0, 56], [128]].enumerated() {
            let content = bytes(window.reduce(0, +), seed: UInt8(number))
            var cuts: [Range<Int>] = []
            for size in window {
                let start = cuts.last?.upperBound ?? 0
                cuts.append(start..<start + size)
            }
            // What lies behind the last cut does not belong to it.
            let found = (content + [1, 2, 3]).withUnsafeBytes { builder.update($0, cuts: cuts) }
            #expect(found == cuts.map { Digest(of: Array(content[$0])) })
            all += content
            #expect(builder.finish() == Digest(of: all))
        }
    }
}
