import Foundation
import Testing

@testable import Basics

@Suite struct ExactMathTests {
    @Test func theFunctionsAreLibmsToFourteenDigits() {
        for step in -700...700 {
            let x = Double(step) + 0.37
            #expect(abs(ExactMath.exponential(x) / exp(x) - 1) < 1e-14 || x < -700 || x > 700, "e^\(x)")
            let y = exp(Double(step) / 2)
            #expect(abs(ExactMath.logarithm(y) - log(y)) <= 1e-14 * max(1, abs(log(y))), "ln \(y)")
            let angle = Double(step) / 700 * .pi
            let (cosine, sine) = ExactMath.turn(angle)
            #expect(abs(cosine - cos(angle)) < 1e-14 && abs(sine - sin(angle)) < 1e-14, "turn \(angle)")
        }
        #expect(ExactMath.exponential(-1000) == 0)
        #expect(ExactMath.exponential(0) == 1)
        #expect(ExactMath.logarithm(1) == 0)
    }
}
