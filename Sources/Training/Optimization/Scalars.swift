/// Functions of scalars that reach weights: + − × ÷ √ only, so that they have the same bits everywhere.
enum Scalars {
    /// `base^exponent` by squaring, exponent ≥ 0.
    static func power(_ base: Double, _ exponent: Int) -> Double {
        var result = 1.0
        var square = base
        var rest = exponent
        while rest > 0 {
            if rest & 1 == 1 { result *= square }
            square *= square
            rest >>= 1
        }
        return result
    }

    /// `cos(π·t)` for t in 0...1, within 1e-15.
    static func cosineOfPi(times t: Double) -> Double {
        if t > 0.5 { return -cosineOfPi(times: 1 - t) }
        // Both series are asked for at most π/4.
        return t <= 0.25 ? series(Double.pi * t, first: 1, start: 1) : sine(Double.pi * (0.5 - t))
    }

    /// Cosine and sine of an angle, 0 ≤ x < 10⁶, within 1e-10.
    static func turn(_ x: Double) -> (cosine: Double, sine: Double) {
        // Whole turns off, in two parts of 2π so that nothing is lost.
        let turns = (x / (2 * .pi)).rounded(.down)
        let rest = (x - turns * 6.28318530717958623) - turns * 2.4492935982947064e-16
        let t = min(max(rest / .pi, 0), 2)
        let cosine = t <= 1 ? cosineOfPi(times: t) : cosineOfPi(times: 2 - t)
        // sin(πt) = cos(π(t - 1/2))
        let shifted = t < 0.5 ? 0.5 - t : t - 0.5
        return (cosine, shifted <= 1 ? cosineOfPi(times: shifted) : -cosineOfPi(times: shifted - 1))
    }

    private static func sine(_ x: Double) -> Double { series(x, first: x, start: 2) }

    /// first · (1 - x²/(s(s+1)) + x⁴/(s(s+1)(s+2)(s+3)) - …): cosine for s = 1, sine for s = 2.
    private static func series(_ x: Double, first: Double, start: Int) -> Double {
        var term = first
        var sum = first
        for k in 0..<9 {
            let n = Double(start + 2 * k)
            term = -term * x * x / (n * (n + 1))
            sum += term
        }
        return sum
    }
}
