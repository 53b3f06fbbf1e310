/// Functions that libm has and whose bits differ between machines there: here + − × ÷ alone, so that they agree everywhere.
///
/// Right to some 15 digits, which is not the last one.
public enum ExactMath {
    /// e^x; 0 below -700, and x is at most 700.
    public static func exponential(_ x: Double) -> Double {
        guard x > -700 else { return 0 }
        let turns = (min(x, 700) / 0.6931471805599453).rounded()
        // ln 2 in two parts, the first short enough that turns times it is exact.
        let rest = (min(x, 700) - turns * 0.693147180369123816490) - turns * 1.90821492927058770002e-10
        var term = 1.0
        var sum = 1.0
        for k in 1...18 {
            term *= rest / Double(k)
            sum += term
        }
        return sum * Double(sign: .plus, exponent: Int(turns), significand: 1)
    }

    /// The natural logarithm of a normal number above 0.
    public static func logarithm(_ x: Double) -> Double {
        precondition(x.isNormal && x > 0, "the logarithm of \(x)")
        let isLarge = x.significand > 1.4142135623730951
        let m = isLarge ? x.significand / 2 : x.significand
        let t = (m - 1) / (m + 1)
        var sum = 0.0
        for k in stride(from: 27, through: 1, by: -2) { sum = sum * t * t + 1 / Double(k) }
        return Double(x.exponent + (isLarge ? 1 : 0)) * 0.6931471805599453 + 2 * t * sum
    }

    /// Cosine and sine of an angle from -π to π.
    public static func turn(_ x: Double) -> (cosine: Double, sine: Double) {
        // Of a quarter, squared twice: the series are short there.
        let y = x / 4
        var (cosine, sine) = (1.0, y)
        var (even, odd) = (1.0, y)
        for k in 1...10 {
            even *= -y * y / Double((2 * k - 1) * (2 * k))
            odd *= -y * y / Double((2 * k) * (2 * k + 1))
            cosine += even
            sine += odd
        }
        for _ in 0..<2 { (cosine, sine) = (cosine * cosine - sine * sine, 2 * cosine * sine) }
        return (cosine, sine)
    }
}
