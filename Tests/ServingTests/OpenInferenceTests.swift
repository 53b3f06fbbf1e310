import Basics
import Testing
import Wire

@testable import Serving

private let signature = ModelSignature(
    model: TypedSpec(type: "m"),
    inputShape: [1, 2, 2],
    classes: ["no", "yes \"sir\""],
    mean: [0],
    deviation: [1]
)

private func read(_ json: String, _ binary: [UInt8] = [], headerLength: Int? = nil) throws -> InferenceRequest
{
    try InferenceRequest(
        body: Array(json.utf8) + binary,
        headerLength: headerLength ?? (binary.isEmpty ? nil : json.utf8.count),
        signature: signature,
        model: "m@1"
    )
}

private func input(_ rest: String) -> String { "{\"inputs\":[{\"name\":\"x\",\(rest)}]}" }

@Suite struct OpenInferenceTests {
    @Test(arguments: [
        "\"datatype\":\"FP32\",\"shape\":[2,1,2,2],\"data\":[1,2,3,4,5,6,7,8]",
        "\"datatype\":\"FP32\",\"shape\":[2,1,2,2],\"data\":[[[[1,2],[3,4]]],[[[5,6],[7,8]]]]",
        "\"datatype\":\"INT64\",\"shape\":[2,4],\"data\":[[1,2,3,4],[5,6,7,8]]",
    ])
    func flatAndNestedDataMeanTheSame(rest: String) throws {
        let request = try read(input(rest))
        #expect(request.rows == 2)
        #expect(request.values == [1, 2, 3, 4, 5, 6, 7, 8])
        #expect(request.wanted.map(\.output) == [.probabilities, .logits, .label])
    }

    @Test(arguments: [
        (TensorType.uint8, [UInt8(0), 1, 128, 255], [Float(0), 1, 128, 255]),
        (.int8, [0, 1, 128, 255], [0, 1, -128, -1]),
        (.bool, [0, 1, 2, 0], [0, 1, 1, 0]),
        (.int16, [0, 0, 1, 0, 0xFF, 0xFF, 0, 0x80], [0, 1, -1, -32768]),
        (.fp16, [0, 0x3C, 0, 0xC0, 1, 0, 0xFF, 0x7B], [1, -2, 0x1p-24, 65504]),
    ])
    func binaryElementsAreConverted(type: TensorType, bytes: [UInt8], values: [Float]) throws {
        let json = input(
            "\"datatype\":\"\(type.rawValue)\",\"shape\":[1,4],\"parameters\":{\"binary_data_size\":\(bytes.count)}"
        )
        #expect(try read(json, bytes).values == values)
    }

    @Test(arguments: [
        (
            "\"datatype\":\"FP32\",\"shape\":[1,5],\"data\":[1,2,3,4,5]",
            "[1,5], the model m@1 takes [-1,1,2,2]"
        ),
        ("\"datatype\":\"FP32\",\"shape\":[0,4],\"data\":[]", "[0,4]"),
        ("\"datatype\":\"FP32\",\"shape\":[1.5,4],\"data\":[]", "[?,4]"),
        ("\"datatype\":\"FP32\",\"shape\":[1,4],\"data\":[1,2,3]", "4 values by its shape and 3 in data"),
        ("\"datatype\":\"FP32\",\"shape\":[1,4],\"data\":[1,2,3,\"4\"]", "no number"),
        ("\"datatype\":\"FP32\",\"shape\":[1,4]", "neither data"),
        ("\"datatype\":\"BYTES\",\"shape\":[1,4],\"data\":[]", "BYTES"),
        ("\"datatype\":\"FP32\",\"shape\":[4611686018427387904,4],\"data\":[]", "rows"),
        ("\"datatype\":\"FP32\",\"shape\":[1,4],\"parameters\":{\"binary_data_size\":16}", "0 bytes follow"),
    ])
    func wrongTensorIsRefusedWithItsReason(rest: String, reason: String) {
        let error = #expect(throws: ServingError.self) { try read(input(rest)) }
        #expect(error?.message.contains(reason) == true, "\(error?.message ?? "")")
        #expect((400...413).contains(error?.httpStatus ?? 0))
    }

    @Test(arguments: [
        "[]", "{}", "{\"inputs\":[]}", "{\"inputs\":[1]}", "{\"inputs\":[{\"name\":\"y\"}]}",
        "{\"inputs\":{}}",
        "{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1,4],\"data\":[1,2,3,4]}],"
            + "\"outputs\":[{\"name\":\"z\"}]}",
    ])
    func wrongRequestIsRefused(json: String) {
        #expect(throws: ServingError.self) { try read(json) }
    }

    @Test func headerLengthBeyondTheBodyIsRefused() {
        #expect(throws: ServingError.self) { try read("{}", headerLength: 3) }
        #expect(throws: ServingError.self) { try read("{}", headerLength: -1) }
    }

    @Test func replyEchoesTheIdAndNamesTheLabel() throws {
        let request = try read(
            "{\"id\":\"a\\n\\u00e9\",\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1,4],"
                + "\"data\":[1,2,3,4]}],\"outputs\":[{\"name\":\"label\"},{\"name\":\"probabilities\"}]}"
        )
        let response = try InferenceResponse(
            Prediction(logits: [0, 1], probabilities: [0.25, 0.75]),
            to: request,
            version: ServedVersion(model: "m", version: 3, checkpoint: Digest(of: "")),
            classes: signature.classes
        )
        #expect(
            String(decoding: response.body, as: UTF8.self) == """
                {"model_name":"m","model_version":"3","id":"a\\né","outputs":[\
                {"name":"label","datatype":"BYTES","shape":[1],"data":["yes \\"sir\\""]},\
                {"name":"probabilities","datatype":"FP32","shape":[1,2],"data":[0.25,0.75]}]}
                """
        )
        #expect(response.headerLength == nil)
    }

    @Test func binaryOutputsFollowTheJSON() throws {
        let request = try read(
            "{\"parameters\":{\"binary_data_output\":true},\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\","
                + "\"shape\":[1,4],\"data\":[1,2,3,4]}]}"
        )
        let response = try InferenceResponse(
            Prediction(logits: [2, 1], probabilities: [0.5, 0.5]),
            to: request,
            version: ServedVersion(model: "m", version: 3, checkpoint: Digest(of: "")),
            classes: signature.classes
        )
        let length = try #require(response.headerLength)
        let outputs = try JSON(response.body[..<length])["outputs"]?.elements ?? []
        #expect(outputs.map { $0["parameters"]?["binary_data_size"]?.integer } == [8, 8, 6])
        #expect(response.body[length...].count == 22)
        #expect(RawValues.values(Float.self, response.body[(length + 8)..<(length + 16)]) == [2, 1])
        #expect(Array(response.body[(length + 16)...]) == [2, 0, 0, 0] + Array("no".utf8))
    }

    @Test func valuesThatJSONCanNotSayAreAnError() throws {
        let request = try read(input("\"datatype\":\"FP32\",\"shape\":[1,4],\"data\":[1,2,3,4]"))
        #expect(throws: ServingError.self) {
            try InferenceResponse(
                Prediction(logits: [.nan, 1], probabilities: [.nan, .nan]),
                to: request,
                version: ServedVersion(model: "m", version: 3, checkpoint: Digest(of: "")),
                classes: signature.classes
            )
        }
    }
}

@Suite struct JSONTests {
    @Test(arguments: [
        "0", "-0.0", "1", "0.1", "1e22", "1e23", "123456789012345678", "3.141592653589793",
        "2.2250738585072014e-308",
        "4.9e-324", "1.7976931348623157e308", "-9007199254740993", "0.30000000000000004", "1E+2",
    ])
    func numbersAreTheNearestDouble(text: String) throws {
        #expect(try JSON(Array(text.utf8)) == .number(try #require(Double(text))))
    }

    @Test func valuesOfEachKindAreRead() throws {
        let text = #" { "a" : [ 1 , 2.5 ] , "b":[true,null,1],"c":"\u00e9\ud83d\ude00\n\\", "d":{} ,"e":[]} "#
        #expect(
            try JSON(Array(text.utf8))
                == .object([
                    "a": .numbers([1, 2.5]), "b": .array([.bool(true), .null, .number(1)]),
                    "c": .string("é😀\n\\"), "d": .object([:]), "e": .array([]),
                ])
        )
    }

    @Test(arguments: [
        "", "{", "[1,]", "01", "1.", ".5", "+1", "1e", "nul", "\"", "\"\\x\"", "\"\\ud800\"", "[1 2]",
        "{\"a\"}",
        "{a:1}", "1 2", "\u{1}", "\"\n\"", "NaN", "1e999", "{\"a\":1,\"a\":2}", "[1,[2],{\"a\":}]",
        String(repeating: "[", count: 100_000),
    ])
    func whatIsNoJSONIsRefused(text: String) {
        #expect(throws: ServingError.self) { try JSON(Array(text.utf8)) }
    }

    @Test func quotedTextReadsBack() throws {
        let text = "a\"b\\c\n\u{1}é😀\u{2028}"
        #expect(try JSON(Array(JSON.quoted(text).utf8)) == .string(text))
    }
}
