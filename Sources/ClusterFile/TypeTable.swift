internal import Basics

/// The types that a key such as `model:` may name, and the parameters of each.
struct TypeTable {
    struct Parameter {
        enum Kind {
            case integer(ClosedRange<Int>)
            case number(NumberRule)
            case boolean
            case integers(ClosedRange<Int>)
            case numbers(NumberRule)
            case choice([String])
            /// A list of layers, each a name or `{ type: …, … }`.
            case layers
        }
        var name: String
        var kind: Kind
        /// What stands in the run's record when the file does not say; nil leaves the parameter out.
        var fallback: SpecValue?

        init(_ name: String, _ kind: Kind, _ fallback: SpecValue?) {
            self.name = name
            self.kind = kind
            self.fallback = fallback
        }
    }

    var types: [(name: String, parameters: [Parameter])]
    /// The type when the file names none; nil when it must.
    var fallback: String?

    // No value of `clip_norm` means "off", so it is left out of the record when the file does not give it;
    // `weight_decay_on` is left out so that older records stay what they were.
    private static func optimizer(
        _ name: String,
        rate: Double,
        decay: SpecValue,
        _ own: [Parameter]
    ) -> (name: String, parameters: [Parameter]) {
        (
            name,
            [Parameter("learning_rate", .number(.positive), .number(rate))] + own + [
                Parameter("weight_decay", .number(.notNegative), decay),
                Parameter("weight_decay_on", .choice(["all", "matrices"]), nil),
                Parameter("clip_norm", .number(.positive), nil),
            ]
        )
    }

    private static func moments(_ second: Double, epsilon: Double?) -> [Parameter] {
        [
            Parameter("beta1", .number(.fraction), .number(0.9)),
            Parameter("beta2", .number(.fraction), .number(second)),
        ] + (epsilon.map { [Parameter("epsilon", .number(.positive), .number($0))] } ?? [])
    }

    private static let momentum = Parameter("momentum", .number(.fraction), .integer(0))

    static let optimizers = TypeTable(
        types: [
            optimizer(
                "sgd",
                rate: 0.01,
                decay: .integer(0),
                [momentum, Parameter("nesterov", .boolean, .boolean(false))]
            ),
            optimizer("adam", rate: 0.001, decay: .integer(0), moments(0.999, epsilon: 1e-8)),
            optimizer("adamw", rate: 0.001, decay: .number(0.01), moments(0.999, epsilon: 1e-8)),
            optimizer(
                "rmsprop",
                rate: 0.01,
                decay: .integer(0),
                [
                    Parameter("alpha", .number(.fraction), .number(0.99)),
                    Parameter("epsilon", .number(.positive), .number(1e-8)), momentum,
                ]
            ),
            optimizer("lamb", rate: 0.001, decay: .number(0.01), moments(0.999, epsilon: 1e-6)),
            optimizer("lion", rate: 0.0001, decay: .integer(0), moments(0.99, epsilon: nil)),
        ],
        fallback: "adamw"
    )

    static let schedules = TypeTable(
        types: [
            ("constant", [warmup]),
            (
                "step",
                [
                    Parameter("every_epochs", .integer(1...1_000_000), .integer(10)),
                    Parameter("factor", .number(.positive), .number(0.1)),
                    warmup,
                ]
            ),
            ("cosine", [Parameter("minimum_factor", .number(.fraction), .integer(0)), warmup]),
            ("one_cycle", [warmup]),
            (
                "plateau",
                [
                    Parameter("patience", .integer(0...1_000_000), .integer(10)),
                    Parameter("factor", .number(.fraction), .number(0.1)),
                    Parameter("improvement", .number(.notNegative), .integer(0)), warmup,
                ]
            ),
        ],
        fallback: "constant"
    )

    static let exchanges = TypeTable(
        types: [
            ("auto", []), ("sync", []), ("bf16", []), ("int8", []),
            ("topk", [Parameter("fraction", .number(.share), .number(1.0 / 64))]),
            ("powersgd", [Parameter("rank", .integer(1...64), .integer(4))]),
            (
                "diloco",
                [
                    Parameter("islands", .integer(1...64), nil),
                    Parameter("local_steps", .integer(1...1_000_000), .integer(20)),
                    Parameter("outer_learning_rate", .number(.positive), .number(0.7)),
                    Parameter("outer_momentum", .number(.fraction), .number(0.9)),
                ]
            ),
        ],
        fallback: "sync"
    )

    static let normalizations = TypeTable(
        types: [
            ("measured", []), ("none", []),
            ("given", [Parameter("mean", .numbers(.any), nil), Parameter("std", .numbers(.positive), nil)]),
        ],
        fallback: "measured"
    )

    private static let warmup = Parameter("warmup_steps", .integer(0...1_000_000_000), .integer(0))

    /// Reads `{ type: …, … }` and fills in the defaults; nil after a problem that leaves nothing to go on with.
    func read(_ section: Section) -> TypedSpec? {
        let names = types.map(\.name)
        guard let value = fallback == nil ? section.required("type") : section.value("type") else {
            guard let fallback else { return nil }
            return read(section, as: fallback)
        }
        guard let name = section.text(value), let known = section.choice(value, name, among: names)
        else { return nil }
        return read(section, as: known)
    }

    /// An item of a list: a mapping with `type`, or the type alone.
    func item(_ value: Section.Value, _ section: Section) -> TypedSpec? {
        if section.isMapping(value) { return section.section(value).flatMap(read) }
        return section.text(value).flatMap { section.choice(value, $0, among: types.map(\.name)) }
            .map(complete)
    }

    /// The type `name` with its defaults.
    func complete(_ name: String) -> TypedSpec {
        var spec = TypedSpec(type: name)
        for parameter in parameters(of: name) { spec.parameters[parameter.name] = parameter.fallback }
        return spec
    }

    private func read(_ section: Section, as name: String) -> TypedSpec {
        var spec = complete(name)
        for parameter in parameters(of: name) {
            let given: SpecValue? =
                switch parameter.kind {
                case .integer(let bounds): section.integer(parameter.name, in: bounds).map(SpecValue.integer)
                case .number(let rule): section.number(parameter.name, rule).map(Self.number)
                case .boolean: section.boolean(parameter.name).map(SpecValue.boolean)
                case .integers(let bounds):
                    section.integers(parameter.name, in: bounds).map { .list($0.map(SpecValue.integer)) }
                case .numbers(let rule):
                    section.numbers(parameter.name, rule).map { .list($0.map(Self.number)) }
                case .choice(let names):
                    section.value(parameter.name).flatMap { value in
                        section.text(value).flatMap { section.choice(value, $0, among: names) }
                    }.map(SpecValue.text)
                case .layers:
                    section.required(parameter.name).flatMap { section.items($0, "a list of layers") }
                        .map { .list($0.compactMap { Self.layers.item($0, section) }.map(SpecValue.spec)) }
                }
            if let given { spec.parameters[parameter.name] = given }
        }
        section.reportUnknownKeys(of: name)
        return spec
    }

    private func parameters(of name: String) -> [Parameter] {
        types.first { $0.name == name }?.parameters ?? []
    }

    // JSON does not tell 1.0 from 1: whole numbers stand as such, so that a spec equals itself after a journey.
    private static func number(_ value: Double) -> SpecValue {
        abs(value) < 0x1p53 ? Int(exactly: value).map(SpecValue.integer) ?? .number(value) : .number(value)
    }
}
