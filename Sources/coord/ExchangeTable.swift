internal import Basics
internal import Coordinator

/// What each way to exchange would cost, for people and programs.
struct ExchangeTable {
    let forecasts: [ExchangePlanner.Forecast]
    /// What `exchange: auto` takes.
    let chosen: ExchangeSpec
    let reason: String

    private struct Line: Encodable {
        var type = "exchange"
        var exchange: ExchangeSpec
        var bytesPerStep: Double
        var exchangeSeconds: Double
        var stepSeconds: Double
        var efficiency: Double
        /// `exchange: auto` takes this one.
        var isAutomatic: Bool
    }

    init(_ forecasts: [ExchangePlanner.Forecast], chosen: ExchangeSpec, reason: String) {
        self.forecasts = forecasts
        self.chosen = chosen
        self.reason = reason
    }

    init(_ planner: ExchangePlanner, given: ExchangeSpec?) {
        let (forecast, reason) = planner.choose()
        self.init(planner.table(given), chosen: forecast.exchange, reason: reason)
    }

    func print(_ console: Console) {
        for forecast in forecasts {
            console.json(
                ifAsked: Line(
                    exchange: forecast.exchange,
                    bytesPerStep: forecast.bytesPerStep,
                    exchangeSeconds: forecast.exchangeSeconds,
                    stepSeconds: forecast.stepSeconds,
                    efficiency: forecast.efficiency,
                    isAutomatic: forecast.exchange.kind == chosen.kind
                )
            )
        }
        guard !console.isJSON else { return }
        console.table(
            [["EXCHANGE", "SENT A STEP", "EXCHANGE", "STEP", "EFFICIENCY", ""]]
                + forecasts.map {
                    [
                        $0.exchange.words, "\(ByteCount(Int64($0.bytesPerStep)))",
                        "\(($0.exchangeSeconds * 1000).digits(2)) ms",
                        "\(($0.stepSeconds * 1000).digits(2)) ms",
                        "\(($0.efficiency * 100).digits(0)) %", $0.exchange.kind == chosen.kind ? "auto" : "",
                    ]
                }
        )
        console.say("auto takes \(chosen.kind.rawValue): \(reason)")
    }
}
