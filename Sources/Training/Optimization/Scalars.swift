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
