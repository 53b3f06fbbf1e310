internal import Basics
internal import Testing

@testable internal import ClusterFile

@Suite("A damaged cluster file")
struct MutationTests {
    /// Whatever happens to a file, it is read or refused with a place; nothing crashes.
    @Test(arguments: 0..<4)
    func isReadOrRefusedWithAPlace(seed: Int) throws {
        var random = Dice(philox: Philox(key: UInt64(seed)))
        let original = Array(ClusterFile.reference.unicodeScalars)
        let noise = Array("{}[]:,-#&*!|>'\"%@` \n\t\r\u{0}\u{85}\u{2028}é😀a3~<?".unicodeScalars)
        for _ in 0..<100 {
            var scalars = original
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let place = Int.random(in: 0..<scalars.count, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: scalars[place] = noise[Int.random(in: 0..<noise.count, using: &random)]
                case 1: scalars.insert(noise[Int.random(in: 0..<noise.count, using: &random)], at: place)
                case 2:
                    scalars.removeSubrange(
                        place..<min(scalars.count, place + Int.random(in: 1...80, using: &random))
                    )
                default:
                    let end = min(scalars.count, place + Int.random(in: 1...400, using: &random))
                    scalars.insert(
                        contentsOf: scalars[place..<end],
                        at: Int.random(in: 0..<scalars.count, using: &random)
                    )
                }
            }
            var view = String.UnicodeScalarView()
            view.append(contentsOf: scalars)
            do {
                _ = try ClusterFile.parse(text: String(view), path: "c.yaml")
            } catch let error as ClusterFileError {
                let lines = String(view).split(omittingEmptySubsequences: false) { $0.isNewline }.count
                for problem in error.problems {
                    let place = try #require(problem.place)
                    #expect(place.line >= 1 && place.line <= lines + 1 && place.column >= 1, "\(problem)")
                    #expect(!problem.text.unicodeScalars.contains { (0xE000...0xF8FF).contains($0.value) })
                    #expect(!problem.text.contains { $0.isNewline }, "one line a problem")
                }
            }
        }
    }
}

/// The same throws each time.
private struct Dice: RandomNumberGenerator {
    let philox: Philox
    var thrown: UInt32 = 0

    mutating func next() -> UInt64 {
        let block = philox.block(thrown, 0, 0, 0)
        thrown += 1
        return UInt64(block.x) << 32 | UInt64(block.y)
    }
}
