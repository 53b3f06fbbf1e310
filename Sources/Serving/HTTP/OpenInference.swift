internal import Basics
internal import Wire

/// The tensors that a served model gives.
enum ModelOutput: String, Sendable, CaseIterable {
    /// FP32 `[n, K]`, in label order.
    case probabilities
    /// FP32 `[n, K]`.
    case logits
    /// BYTES `[n]`: the name of the most probable class.
    case label
}

/// What a child computed for the rows of a request.
struct Prediction: Sendable, Equatable {
    /// `[n, K]`.
    var logits: [Float]
    /// `[n, K]`.
    var probabilities: [Double]
}

/// An infer request of the Open Inference Protocol v2, checked against the model.
struct InferenceRequest: Equatable, Sendable {
    /// A wanted output, and whether its bytes follow behind the JSON.
    struct Wanted: Equatable, Sendable {
        var output: ModelOutput
        var isBinary: Bool
    }

    /// The name of the only input.
    static let inputName = "x"

    /// Echoed in the reply.
    var id: String?
    /// n.
    var rows: Int
    /// `[n, inputCount]`, raw as the client has them: the model's own mean and deviation are applied by the child.
    var values: [Float]
    /// Never empty.
    var wanted: [Wanted]

    /// Reads a body.
    ///
    /// - Parameters:
    ///   - headerLength: how many bytes of the body are JSON (`Inference-Header-Content-Length`); nil = all.
    ///   - signature: what the model takes.
    ///   - model: for messages, `digits@3`.
    /// - Throws: ``ServingError`` `.badRequest`.
    init(body: [UInt8], headerLength: Int?, signature: ModelSignature, model: String) throws {
        let split = headerLength ?? body.count
        guard split >= 0, split <= body.count else {
            throw ServingError(
                .badRequest,
                "Inference-Header-Content-Length is \(split), but the body has \(body.count) bytes"
            )
        }
        let json = try JSON(body[..<split])
        guard case .object = json else { throw ServingError(.badRequest, "the body is no JSON object") }
        id = json["id"]?.text
        guard let inputs = json["inputs"]?.elements else {
            throw ServingError(.badRequest, "'inputs' is missing")
        }
        guard let input = inputs.first, inputs.count == 1 else {
            throw ServingError(.badRequest, "the model \(model) takes 1 input, not \(inputs.count)")
        }
        (rows, values) = try Self.tensor(input, body[split...], signature, model)
        wanted = try Self.wanted(json)
    }

    private static func tensor(
        _ input: JSON,
        _ binary: ArraySlice<UInt8>,
        _ signature: ModelSignature,
        _ model: String
    ) throws -> (Int, [Float]) {
        let name = input["name"]?.text ?? ""
        guard name == inputName else {
            throw ServingError(
                .badRequest,
                "there is no input \(JSON.quoted(name)); the model \(model) takes '\(inputName)'"
            )
        }
        let typeName = input["datatype"]?.text ?? ""
        guard let type = TensorType(rawValue: typeName) else {
            throw ServingError(
                .badRequest,
                "input '\(name)' has datatype \(JSON.quoted(typeName)); one of "
                    + TensorType.allCases.map(\.rawValue).joined(separator: ", ") + " is needed"
            )
        }
        let shape = (input["shape"]?.elements ?? []).map(\.integer)
        let expected = signature.inputShape
        let inner = shape.dropFirst().map { $0 ?? -1 }
        // A table of features or pixels may come flat, whatever the model's own shape.
        guard let first = shape.first, let rows = first, rows >= 1,
            inner == expected || inner == [signature.inputCount]
        else {
            throw ServingError(
                .badRequest,
                "input '\(name)' has shape [\(shape.map { $0.map(String.init) ?? "?" }.joined(separator: ","))], "
                    + "the model \(model) takes [-1,\(expected.map(String.init).joined(separator: ","))]"
            )
        }
        let (count, overflow) = rows.multipliedReportingOverflow(by: signature.inputCount)
        guard !overflow, count <= 1 << 26 else {
            throw ServingError(
                .tooLarge,
                "input '\(name)' has \(rows) rows",
                hint: "send fewer rows at a time"
            )
        }
        if let size = input["parameters"]?["binary_data_size"]?.integer {
            guard size == binary.count, size == count * type.size else {
                throw ServingError(
                    .badRequest,
                    "input '\(name)' needs \(count * type.size) bytes; binary_data_size is \(size) and "
                        + "\(binary.count) bytes follow the JSON"
                )
            }
            return (rows, type.floats(binary))
        }
        guard let data = input["data"] else {
            throw ServingError(.badRequest, "input '\(name)' has neither data nor binary_data_size")
        }
        guard binary.isEmpty else {
            throw ServingError(.badRequest, "\(binary.count) bytes follow the JSON and belong to no input")
        }
        var values: [Float] = []
        values.reserveCapacity(count)
        try flatten(data, into: &values, name: name)
        guard values.count == count else {
            throw ServingError(
                .badRequest,
                "input '\(name)' has \(count) values by its shape and \(values.count) in data"
            )
        }
        return (rows, values)
    }

    private static func flatten(_ data: JSON, into values: inout [Float], name: String) throws {
        switch data {
        case .numbers(let numbers): values += numbers.map { Float($0) }
        case .number(let number): values.append(Float(number))
        case .bool(let truth): values.append(truth ? 1 : 0)
        case .array(let elements):
            for element in elements { try flatten(element, into: &values, name: name) }
        default: throw ServingError(.badRequest, "input '\(name)' holds something that is no number")
        }
    }

    private static func wanted(_ json: JSON) throws -> [Wanted] {
        let allBinary = json["parameters"]?["binary_data_output"]?.truth ?? false
        guard let outputs = json["outputs"]?.elements, !outputs.isEmpty else {
            return ModelOutput.allCases.map { Wanted(output: $0, isBinary: allBinary) }
        }
        return try outputs.map { output in
            let name = output["name"]?.text ?? ""
            guard let known = ModelOutput(rawValue: name) else {
                throw ServingError(
                    .badRequest,
                    "there is no output \(JSON.quoted(name)); there are "
                        + ModelOutput.allCases.map(\.rawValue).joined(separator: ", ")
                )
            }
            return Wanted(output: known, isBinary: output["parameters"]?["binary_data"]?.truth ?? allBinary)
        }
    }
}

/// The reply to an infer request.
struct InferenceResponse: Equatable, Sendable {
    /// JSON, and behind it the bytes of binary outputs.
    var body: [UInt8]
    /// How many bytes are JSON; nil when all are.
    var headerLength: Int?

    /// Writes a reply.
    ///
    /// - Throws: ``ServingError`` `.failed` when the model gave values that JSON can't say.
    init(
        _ prediction: Prediction,
        to request: InferenceRequest,
        version: ServedVersion,
        classes: [String]
    ) throws {
        guard prediction.logits.allSatisfy(\.isFinite) else {
            throw ServingError(.failed, "the model \(version.text) gave values that are not finite")
        }
        var json = "{\"model_name\":\(JSON.quoted(version.model)),\"model_version\":\"\(version.version)\""
        if let id = request.id { json += ",\"id\":\(JSON.quoted(id))" }
        json += ",\"outputs\":["
        var binary: [UInt8] = []
        for (index, wanted) in request.wanted.enumerated() {
            let isLabel = wanted.output == .label
            let shape = isLabel ? "[\(request.rows)]" : "[\(request.rows),\(classes.count)]"
            let type = isLabel ? "BYTES" : "FP32"
            json += index == 0 ? "" : ","
            json += "{\"name\":\"\(wanted.output.rawValue)\",\"datatype\":\"\(type)\",\"shape\":\(shape)"
            let numbers: [Float]
            var labels: [String] = []
            switch wanted.output {
            case .probabilities: numbers = prediction.probabilities.map { Float($0) }
            case .logits: numbers = prediction.logits
            case .label:
                numbers = []
                labels = Self.labels(prediction, classes)
            }
            if wanted.isBinary {
                var bytes = isLabel ? [] : RawValues.bytes(numbers)
                for label in labels {
                    bytes += RawValues.bytes([UInt32(label.utf8.count)])
                    bytes += Array(label.utf8)
                }
                json += ",\"parameters\":{\"binary_data_size\":\(bytes.count)}}"
                binary += bytes
            } else {
                let words = isLabel ? labels.map(JSON.quoted) : numbers.map(\.description)
                json += ",\"data\":[\(words.joined(separator: ","))]}"
            }
        }
        json += "]}"
        body = Array(json.utf8)
        if request.wanted.contains(where: \.isBinary) {
            headerLength = body.count
            body += binary
        }
    }

    /// The name of the largest logit of each row; the first of equal ones.
    private static func labels(_ prediction: Prediction, _ classes: [String]) -> [String] {
        stride(from: 0, to: prediction.logits.count, by: classes.count).map { start in
            let row = start..<(start + classes.count)
            let best = row.reduce(start) { prediction.logits[$1] > prediction.logits[$0] ? $1 : $0 }
            return classes[best - start]
        }
    }
}

/// The descriptions that the protocol asks for, as JSON texts.
enum OpenInferenceText {
    /// `GET /v2`.
    static let server = """
        {"name":"coord-serve","version":"1","extensions":["binary_tensor_data","model_repository"]}
        """

    /// `GET /v2/models/{m}`.
    static func model(_ version: ServedVersion, loaded: [ServedVersion], signature: ModelSignature) -> String
    {
        let shape = "[-1,\(signature.inputShape.map(String.init).joined(separator: ","))]"
        let numbers = loaded.filter { $0.model == version.model }.map { $0.version }.sorted()
        let outputs = ModelOutput.allCases.map { output in
            let isLabel = output == .label
            let inner = isLabel ? "[-1]" : "[-1,\(signature.classes.count)]"
            return
                "{\"name\":\"\(output.rawValue)\",\"datatype\":\"\(isLabel ? "BYTES" : "FP32")\",\"shape\":\(inner)}"
        }
        return "{\"name\":\(JSON.quoted(version.model))"
            + ",\"versions\":[\(numbers.map { "\"\($0)\"" }.joined(separator: ","))]"
            + ",\"platform\":\"coord_native\""
            + ",\"inputs\":[{\"name\":\"\(InferenceRequest.inputName)\",\"datatype\":\"FP32\",\"shape\":\(shape)}]"
            + ",\"outputs\":[\(outputs.joined(separator: ","))]}"
    }

    /// `POST /v2/repository/index`.
    static func index(_ loaded: [(version: ServedVersion, isReady: Bool)]) -> String {
        let entries = loaded.map { entry in
            "{\"name\":\(JSON.quoted(entry.version.model)),\"version\":\"\(entry.version.version)\","
                + "\"state\":\"\(entry.isReady ? "READY" : "UNAVAILABLE")\",\"reason\":\"\"}"
        }
        return "[\(entries.joined(separator: ","))]"
    }

    /// Any refusal.
    static func error(_ error: ServingError) -> String {
        "{\"error\":\(JSON.quoted(error.hint.map { "\(error.message); \($0)" } ?? error.message))}"
    }
}
