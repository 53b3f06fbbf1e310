import Basics
import ContentStore
import CoordTesting
import Images
import Synchronization
import Testing

@testable import Datasets

private let shape = ImageShape(channels: 3, height: 5, width: 6)

/// `[C, H, W]`.
private func picture() -> [Float] {
    (0..<(3 * 5 * 6)).map { place in
        let (c, y, x) = (place / 30, place % 30 / 6, place % 6)
        return Float((7 * x + 13 * y + 31 * c + x * y) % 256)
    }
}

private func changed(_ body: (UnsafeMutableBufferPointer<Float>) -> Void) -> [Float] {
    var values = picture()
    values.withUnsafeMutableBufferPointer { body($0) }
    return values
}

/// Every seventh number against PyTorch 2.13.0's in double (`grid_sample`, `conv2d`) and Python's `colorsys`.
private func expectSeventh(_ found: [Float], _ expected: [Float], _ what: String) {
    for (index, value) in expected.enumerated() {
        if abs(found[7 * index] - value) > 0.01 {
            Issue.record("\(what) [\(7 * index)]: \(found[7 * index]), not \(value)")
        }
    }
    #expect(expected.count == (found.count + 6) / 7)
}

private func spec(_ type: String, _ parameters: [String: SpecValue] = [:]) -> TypedSpec {
    TypedSpec(type: type, parameters: parameters)
}

@Suite struct ImageTransformTests {
    @Test func rotationIsPyTorchs() {
        let rotation = Rotation(degrees: 180)
        expectSeventh(
            changed { rotation.turn($0, shape, radians: 25 * .pi / 180) },
            [
                0.989, 17.638, 41.242, 66.132, 47.13, 34.383, 45.126, 67.198, 90.556, 95.286, 121.831,
                149.662, 38.055,
            ],
            "25 degrees"
        )
        expectSeventh(
            changed { rotation.turn($0, shape, radians: .pi) },
            [107, 79, 53, 29, 7, 83, 102, 76, 52, 136, 111, 88, 97],
            "180 degrees"
        )
    }

    @Test func colorsAreThoseOfTheFormulas() {
        let jitter = ColorJitter(brightness: 0, contrast: 0, saturation: 0, hue: 0)
        expectSeventh(
            changed {
                jitter.change($0, shape, brightness: 1.15, contrast: 0.85, saturation: 1.2, hue: 0.07)
            },
            [
                7.785, 28.312, 50.795, 75.233, 101.626, 47.816, 39.018, 61.501, 85.939, 101.038, 124.499,
                149.914, 131.342,
            ],
            "color"
        )
        #expect(changed { jitter.apply($0, shape, SIMD4(1, 2, 3, 4)) } == picture())
    }

    @Test func blurIsAGaussian() {
        expectSeventh(
            changed { Blur(sigma: 0.8, probability: 1).blur($0, shape, sigma: 0.8) },
            [
                11.192, 21.967, 44.0, 68.298, 86.281, 71.695, 61.903, 79.823, 96.829, 91.716, 107.393,
                128.097, 112.614,
            ],
            "blur"
        )
    }

    @Test func flipsMirror() {
        let source = picture()
        let across = changed { Flip(isVertical: false, probability: 1).apply($0, shape, SIMD4(repeating: 0)) }
        let down = changed { Flip(isVertical: true, probability: 1).apply($0, shape, SIMD4(repeating: 0)) }
        for place in source.indices {
            let (plane, y, x) = (place / 30 * 30, place % 30 / 6, place % 6)
            if across[place] != source[plane + y * 6 + 5 - x] { Issue.record("across \(place)") }
            if down[place] != source[plane + (4 - y) * 6 + x] { Issue.record("down \(place)") }
        }
        #expect(
            changed { Flip(isVertical: false, probability: 0.5).apply($0, shape, SIMD4(repeating: .max)) }
                == source
        )
    }

    /// Every shift from -2 to 2 comes, and what came from outside is black.
    @Test func cropsShift() {
        let source = picture()
        var seen: Set<[Int]> = []
        for round in 0..<400 {
            let bits = RandomSource(seed: 3).block(.augmentation, position: round)
            let result = changed { PaddedCrop(padding: 2).apply($0, shape, bits) }
            let matches = (-2...2).flatMap { dy in (-2...2).map { dx in [dy, dx] } }.filter { shift in
                source.indices.allSatisfy { place in
                    let (plane, y, x) = (place / 30 * 30, place % 30 / 6 + shift[0], place % 6 + shift[1])
                    let isInside = (0..<5).contains(y) && (0..<6).contains(x)
                    return result[place] == (isInside ? source[plane + y * 6 + x] : 0)
                }
            }
            #expect(matches.count == 1)
            seen.formUnion(matches)
        }
        #expect(seen.count == 25)
    }

    @Test func cutOutCoversASquareWithTheMean() {
        let source = picture()
        for round in 0..<50 {
            let bits = RandomSource(seed: 4).block(.augmentation, position: round)
            let result = changed { CutOut(size: 2, probability: 1).apply($0, shape, bits) }
            for channel in 0..<3 {
                let own = Array(source[(channel * 30)..<(channel * 30 + 30)])
                let mean = own.reduce(0, +) / 30
                let covered = (0..<30).filter { result[channel * 30 + $0] != own[$0] }
                #expect(covered.allSatisfy { abs(result[channel * 30 + $0] - mean) < 1e-4 })
                // A corner of the square at least is inside.
                #expect((0...4).contains(covered.count))
                #expect(Set(covered.map { $0 / 6 }).count <= 2 && Set(covered.map { $0 % 6 }).count <= 2)
            }
        }
    }
}

@Suite struct AugmentationTests {
    private let all = [
        spec("crop", ["padding": .integer(2)]), spec("flip"), spec("rotate"),
        spec("color", ["hue": .number(0.1)]),
        spec("blur", ["sigma": .number(0.7)]), spec("cutout", ["size": .integer(2)]), spec("mixup"),
    ]

    private func values(_ augmentation: Augmentation, step: Int, position: Int) -> [Float] {
        changed { augmentation.apply($0, step: step, position: position) }
    }

    @Test func theSameKeyGivesTheSameBitsAndEachOtherKeyOthers() throws {
        let first = try Augmentation(all, shape: [3, 5, 6], seed: 7)
        let second = try Augmentation(all, shape: [3, 5, 6], seed: 7)
        let other = try Augmentation(all, shape: [3, 5, 6], seed: 8)
        let keys = (0..<8).flatMap { step in (0..<8).map { (step, $0) } }
        let forwards = keys.map { values(first, step: $0.0, position: $0.1) }
        let backwards = Array(keys.reversed().map { values(second, step: $0.0, position: $0.1) }.reversed())
        #expect(forwards == backwards)
        #expect(Set(forwards).count == 64)
        #expect(values(other, step: 0, position: 0) != forwards[0])
    }

    @Test func whatDoesNotFitIsNamed() throws {
        for (specs, words) in [
            ([spec("fly")], "augment fly: there is no such type"),
            (
                [spec("rotate", ["degrees": .integer(200)])],
                "augment rotate: degrees must be from 0.0 to 180.0"
            ),
            ([spec("blur", ["sigma": .integer(3)])], "augment blur: sigma 3.0 is too much for 6 by 5 pixels"),
        ] {
            let error = #expect(throws: DatasetError.self) {
                try Augmentation(specs, shape: [3, 5, 6], seed: 1)
            }
            #expect(error?.message == words)
        }
        let error = #expect(throws: DatasetError.self) {
            try Augmentation([spec("flip")], shape: [20], seed: 1)
        }
        #expect(error?.message == "augment is for images, and a sample has the shape [20]")
        #expect(try Augmentation([], shape: [20], seed: 1).isEmpty)
    }
}

@Suite struct PrefetcherTests {
    private func key(_ number: Int) -> Prefetcher.Key {
        .init(sample: number, place: .init(step: number / 7, position: number % 7))
    }

    private func value(_ key: Prefetcher.Key, _ place: Int) -> Float {
        Float(1000 * key.sample + 10 * (key.place?.step ?? -1) + place)
    }

    /// Whoever makes a sample, and however many threads do: the same values, each sample made for its key.
    @Test(.timeLimit(.minutes(1)), arguments: [1, 4], [1, 5, 64])
    func everySampleIsTheOneThatWasAskedFor(threads: Int, room: Int) {
        let prefetcher = Prefetcher(valueCount: 3, room: room, announced: 64, threads: threads) {
            for place in 0..<3 { $1[place] = value($0, place) }
        }
        var target = [Float](repeating: 0, count: 3)
        for round in 0..<200 {
            let keys = (0..<32).map { key(32 * round + $0) }
            prefetcher.expect(keys)
            // In another order, and some that were never announced.
            for key in keys.reversed() + [Prefetcher.Key(sample: round), key(10_000 + round)] {
                target.withUnsafeMutableBufferPointer { prefetcher.take(key, into: $0) }
                if target != (0..<3).map({ value(key, $0) }) { Issue.record("\(key): \(target)") }
            }
        }
        #expect(prefetcher.counts.ready + prefetcher.counts.late == 200 * 34)
    }

    private func take(_ number: Int, _ prefetcher: Prefetcher) -> Float {
        var target: [Float] = [-1]
        target.withUnsafeMutableBufferPointer { prefetcher.take(key(number), into: $0) }
        return target[0]
    }

    /// Nobody waits for a sample that another thread is at, and what nobody comes for gives way to what is new.
    @Test(.timeLimit(.minutes(1)))
    func theAskerNeverWaitsAndOldKeysGiveWay() {
        let made = Tally()
        let gate = Gate()
        let prefetcher = Prefetcher(valueCount: 1, room: 4, announced: 4, threads: 1) { key, target in
            made.count(key.sample)
            if key.sample == 0, made[0] == 1 { gate.enterAndWait() }
            target[0] = Float(key.sample)
        }
        prefetcher.expect((0..<4).map(key))
        gate.waitUntilEntered()
        // The thread is at sample 0: it is made here as well.
        #expect(take(0, prefetcher) == 0 && made[0] == 2)
        // Of ten, the last four stay.
        prefetcher.expect((10..<20).map(key))
        gate.open()
        gate.waitUntil { made[19] == 1 }
        #expect((10..<16).allSatisfy { made[$0] == 0 })
        for number in [19, 18, 17, 16, 10] { #expect(take(number, prefetcher) == Float(number)) }
        #expect(made[10] == 1)
    }

    /// Of many that are announced only as many are made ahead as there is room for, and each one in the end.
    @Test(.timeLimit(.minutes(1)))
    func noMoreAreMadeAheadThanThereIsRoomFor() {
        let (made, gate) = (Tally(), Gate())
        let taken = Mutex(0)
        let prefetcher = Prefetcher(valueCount: 1, room: 3, announced: 40, threads: 1) { key, target in
            let isEarly = key.sample >= taken.withLock { $0 } + 3
            if isEarly { Issue.record("\(key.sample) is made too early") }
            made.count(key.sample)
            target[0] = Float(key.sample)
        }
        prefetcher.expect((0..<40).map(key))
        for number in 0..<40 {
            gate.waitUntil { made[min(39, number + 2)] == 1 }
            taken.withLock { $0 = number + 1 }
            #expect(take(number, prefetcher) == Float(number))
        }
        // The last one may have been asked for just before it was there.
        #expect(prefetcher.counts.ready >= 39)
    }
}
