import Basics
import Testing

@Suite struct RandomSourceTests {
    /// Known answers of Random123 1.14, `kat_vectors`, philox4x32 10 rounds.
    @Test func philoxGivesTheKnownAnswers() {
        #expect(
            Philox(key: 0).block(0, 0, 0, 0) == SIMD4(0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8)
        )
        #expect(
            Philox(key: .max).block(.max, .max, .max, .max)
                == SIMD4(0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd)
        )
        #expect(
            Philox(key: 0x299f_31d0_a409_3822).block(0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344)
                == SIMD4(0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1)
        )
    }

    @Test(arguments: [0, 1, 2, 3, 5, 16, 17, 100, 1797, 65_537])
    func aKeyedPermutationHitsEveryElementOnce(count: Int) {
        let permutation = KeyedPermutation(count: count, key: 99)
        var seen = Set<Int>()
        for position in 0..<count { seen.insert(permutation[position]) }
        #expect(seen == Set(0..<count))
    }

    @Test func otherKeysGiveOtherOrders() {
        let a = KeyedPermutation(count: 1000, key: 1)
        let b = KeyedPermutation(count: 1000, key: 2)
        let same = (0..<1000).count { a[$0] == b[$0] }
        #expect(same < 20)
    }

    @Test func unitNumbersStayBelowOne() {
        #expect(RandomSource.unit(.max) < 1)
        #expect(RandomSource.unit(0) == 0)
    }
}
