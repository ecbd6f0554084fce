package featurestore.flink;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.types.Row;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/** The same states as in Python, by vectors that Python wrote. */
class VectorsTest {
    private static final JsonNode VECTORS = vectors();
    private static final double CLOSE = 1e-12;

    private static JsonNode vectors() {
        try (InputStream file = VectorsTest.class.getResourceAsStream("/vectors.json")) {
            return new ObjectMapper().readTree(file);
        } catch (IOException e) {
            throw new AssertionError("vectors.json is a resource of the tests", e);
        }
    }

    private static Object value(JsonNode node, String type) {
        return switch (type) {
            case "Int64" -> node.longValue();
            case "Float64" -> node.doubleValue();
            case "Bool" -> node.booleanValue();
            default -> node.textValue();
        };
    }

    private static byte[] key(int i) {
        Bytes key = new Bytes();
        key.add((long) i);
        return key.toArray();
    }

    /** An aggregate over some events: over all at once, or over two parts that are merged. */
    private interface Feed {
        Row over(List<Object> values, int parts);
    }

    private static Feed feed(String name, int[] more) {
        int k = more.length == 0 ? 0 : more[0];
        return switch (name) {
            case "SumInt", "SumDouble", "Moments2", "Moments3", "Moments4" -> fixed(Partials.of("p0 "
                    + name.replace("Sum", "sum_").replace("Moments", "moments").toLowerCase(Locale.ROOT) + " 0 -"));
            case "First", "Last" -> rows(name.equals("First") ? new Ordered.First() : new Ordered.Last());
            case "MinBy", "MaxBy" -> rows(name.equals("MinBy") ? new Ordered.MinBy() : new Ordered.MaxBy());
            case "FirstK", "LastK" -> rows(name.equals("FirstK") ? new Ordered.FirstK() : new Ordered.LastK(), k);
            case "Largest", "Smallest" -> rows(name.equals("Largest") ? new Ordered.Largest() : new Ordered.Smallest(), k);
            case "Frequencies", "Buckets" -> rows(new Ordered.Frequencies(), k);
            case "Distinct" -> rows(new Ordered.Distinct(), k);
            default -> throw new AssertionError(name);
        };
    }

    private static Feed fixed(Partials partials) {
        return (values, parts) -> {
            List<byte[]> states = new ArrayList<>();
            for (int p = 0; p < parts; p++) {
                byte[] state = partials.createAccumulator();
                for (int i = p; i < values.size(); i += parts) {
                    partials.accumulate(state, "", values.get(i));
                }
                states.add(state);
            }
            partials.merge(states.get(0), states.subList(1, parts));
            GenericRowData made = (GenericRowData) partials.getValue(states.get(0));
            Object[] fields = new Object[made.getArity()];
            Arrays.setAll(fields, made::getField);
            return Row.of(fields);
        };
    }

    private static Feed rows(Object function, int... more) {
        return (values, parts) -> {
            List<Row> states = new ArrayList<>();
            for (int p = 0; p < parts; p++) {
                List<Integer> mine = new ArrayList<>();
                for (int i = values.size() - 1 - p; i >= 0; i -= parts) { // the last first: no order of arrival shows
                    mine.add(i);
                }
                states.add(accumulated(function, values, mine, more));
            }
            return merged(function, states);
        };
    }

    private static Row accumulated(Object function, List<Object> values, List<Integer> order, int... more) {
        Integer k = more.length == 0 ? null : more[0];
        Row state;
        if (function instanceof Ordered.Picked picked) {
            state = picked.createAccumulator();
            order.forEach(i -> picked.accumulate(state, values.get(i), i / 2L, key(i)));
        } else if (function instanceof Ordered.Best best) {
            state = best.createAccumulator();
            order.forEach(i -> best.accumulate(state, values.get(i), i * 3L % 5, i / 2L, key(i)));
        } else if (function instanceof Ordered.PickedK picked) {
            state = picked.createAccumulator();
            order.forEach(i -> picked.accumulate(state, values.get(i), i / 2L, key(i), k));
        } else if (function instanceof Ordered.BestK best) {
            state = best.createAccumulator();
            order.forEach(i -> best.accumulate(state, values.get(i), k));
        } else if (function instanceof Ordered.Frequencies counts) {
            state = counts.createAccumulator();
            order.forEach(i -> counts.accumulate(state, values.get(i), k));
        } else {
            Ordered.Distinct distinct = (Ordered.Distinct) function;
            state = distinct.createAccumulator();
            order.forEach(i -> distinct.accumulate(state, (Long) values.get(i), k));
        }
        return state;
    }

    private static Row merged(Object function, List<Row> states) {
        Row first = states.get(0);
        List<Row> others = states.subList(1, states.size());
        if (function instanceof Ordered.Picked picked) {
            picked.merge(first, others);
            return picked.getValue(first);
        } else if (function instanceof Ordered.Best best) {
            best.merge(first, others);
            return best.getValue(first);
        } else if (function instanceof Ordered.PickedK picked) {
            picked.merge(first, others);
            return picked.getValue(first);
        } else if (function instanceof Ordered.BestK best) {
            best.merge(first, others);
            return best.getValue(first);
        } else if (function instanceof Ordered.Frequencies counts) {
            counts.merge(first, others);
            return counts.getValue(first);
        }
        ((Ordered.Distinct) function).merge(first, others);
        return ((Ordered.Distinct) function).getValue(first);
    }

    private static final Map<String, List<String>> FIELDS = Map.ofEntries(
            Map.entry("SumInt", List.of("lo", "hi")),
            Map.entry("SumDouble", List.of("s", "c")),
            Map.entry("Moments2", List.of("n", "mean", "low", "m2")),
            Map.entry("Moments3", List.of("n", "mean", "low", "m2", "m3")),
            Map.entry("Moments4", List.of("n", "mean", "low", "m2", "m3", "m4")),
            Map.entry("First", List.of("at", "v")),
            Map.entry("Last", List.of("at", "v")),
            Map.entry("MinBy", List.of("by", "at", "known", "v")),
            Map.entry("MaxBy", List.of("by", "at", "known", "v")),
            Map.entry("FirstK", List.of("at", "v")),
            Map.entry("LastK", List.of("at", "v")),
            Map.entry("Largest", List.of("v")),
            Map.entry("Smallest", List.of("v")),
            Map.entry("Frequencies", List.of("v", "n")),
            Map.entry("Buckets", List.of("v", "n")),
            Map.entry("Distinct", List.of("v")));

    @TestFactory
    Stream<DynamicTest> everyPartialIsThatOfPython() {
        List<DynamicTest> tests = new ArrayList<>();
        for (JsonNode vector : VECTORS.get("partials")) {
            for (int parts : new int[] {1, 3}) {
                String name = vector.get("function").asText() + " of " + vector.get("type").asText() + " in " + parts;
                tests.add(DynamicTest.dynamicTest(name, () -> check(vector, parts)));
            }
        }
        return tests.stream();
    }

    private static void check(JsonNode vector, int parts) {
        String name = vector.get("function").asText();
        String type = vector.get("type").asText();
        int[] more = new int[vector.get("more").size()];
        for (int i = 0; i < more.length; i++) {
            more[i] = vector.get("more").get(i).asInt();
        }
        List<Object> values = new ArrayList<>();
        for (JsonNode node : vector.get("values")) {
            Object value = value(node, type);
            values.add(name.equals("Distinct") ? new Items.Hash().eval(value)
                    : name.equals("Buckets") ? new Items.Bucket().eval((Double) value) : value);
        }
        Row got = feed(name, more).over(values, parts);
        JsonNode want = vector.get("want");
        if (name.equals("SumDouble")) {
            double sum = want.get("s").doubleValue() + want.get("c").doubleValue();
            assertEquals(sum, (double) got.getField(0) + (double) got.getField(1), CLOSE * Math.abs(sum));
            return;
        }
        if (name.startsWith("Moments")) {
            checkMoments(got, want);
            return;
        }
        List<String> fields = FIELDS.get(name);
        assertEquals(fields.size(), got.getArity());
        for (int i = 0; i < fields.size(); i++) {
            String kind = List.of("at", "n", "by", "lo", "hi").contains(fields.get(i)) || name.equals("Distinct") || name.equals("Buckets")
                    ? "Int64"
                    : fields.get(i).equals("known") ? "Bool" : type;
            JsonNode expected = want.get(fields.get(i));
            if (expected.isArray()) {
                List<Object> items = new ArrayList<>();
                expected.forEach(item -> items.add(value(item, kind)));
                assertEquals(items, got.getField(i), fields.get(i));
            } else {
                assertEquals(value(expected, kind), got.getField(i), fields.get(i));
            }
        }
    }

    private static void checkMoments(Row got, JsonNode want) {
        assertEquals(want.get("n").longValue(), got.getField(0));
        double mean = want.get("mean").doubleValue() + want.get("low").doubleValue();
        assertEquals(mean, (double) got.getField(1) + (double) got.getField(2), CLOSE * Math.abs(mean));
        double m2 = want.get("m2").doubleValue();
        for (int k = 2; k < got.getArity() - 1; k++) {
            double central = want.get("m" + k).doubleValue();
            assertEquals(central, (double) got.getField(k + 1), 1e-9 * Math.pow(m2, k / 2.0), "m" + k);
        }
    }

    @Test
    void hashesAndBucketsAreThoseOfPython() {
        for (JsonNode pair : VECTORS.get("hashes")) {
            JsonNode node = pair.get(0);
            Object value = node.isTextual() ? node.textValue()
                    : node.isBoolean() ? (Object) node.booleanValue()
                    : node.isIntegralNumber() ? (Object) node.longValue() : node.doubleValue();
            assertEquals(pair.get(1).longValue(), new Items.Hash().eval(value), node.toString());
        }
        for (JsonNode pair : VECTORS.get("buckets")) {
            assertEquals(pair.get(1).longValue(), new Items.Bucket().eval(pair.get(0).doubleValue()), pair.toString());
        }
    }

    @TestFactory
    Stream<DynamicTest> everyEventIsReadOrRefusedAsInPython() {
        List<Events.Column> columns = Events.columns(VECTORS.get("columns").toString());
        List<DynamicTest> tests = new ArrayList<>();
        for (JsonNode pair : VECTORS.get("events")) {
            String payload = pair.get(0).asText();
            byte[] bytes = payload.getBytes(StandardCharsets.UTF_8);
            tests.add(DynamicTest.dynamicTest(payload, () -> {
                GenericRowData row = new GenericRowData(columns.size() + 1);
                if (new FastEvents(columns).read(bytes, row)) { // then both read the same
                    Object[] slow = Events.read(bytes, columns);
                    for (int i = 0; i < slow.length; i++) {
                        Object got = row.getField(i + 1);
                        assertEquals(slow[i], got instanceof StringData text ? text.toString() : got);
                    }
                }
                if (pair.get(1).isNull()) {
                    assertTrue(assertThrows(Events.Bad.class, () -> Events.read(bytes, columns)).getMessage().length() > 5);
                    return;
                }
                assertValues(pair.get(1), Events.read(bytes, columns), payload);
            }));
        }
        return tests.stream();
    }

    private static void assertValues(JsonNode wanted, Object[] values, String payload) {
        for (int i = 0; i < values.length; i++) {
            JsonNode want = wanted.get(i);
            String got = String.valueOf(values[i]);
            if (values[i] instanceof Double x && Double.isFinite(x)) {
                assertEquals(want.doubleValue(), x, payload);
            } else if (values[i] instanceof Float x && Float.isFinite(x)) {
                assertEquals(want.doubleValue(), x.doubleValue(), payload);
            } else {
                assertEquals(want.isNull() ? "null" : want.asText(), got.replace("NaN", "nan").replace("Infinity", "inf"), payload);
            }
        }
    }

    @TestFactory
    Stream<DynamicTest> everyRecordOfAvroIsReadOrRefusedAsInPython() {
        List<DynamicTest> tests = new ArrayList<>();
        for (JsonNode topic : VECTORS.get("avro")) {
            AvroEvents.Spec spec = new AvroEvents.Spec(topic.get("spec").toString());
            GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(spec.schema);
            for (JsonNode pair : topic.get("events")) {
                byte[] bytes = HexFormat.of().parseHex(pair.get(0).asText());
                tests.add(DynamicTest.dynamicTest(pair.toString(), () -> {
                    if (pair.get(1).isNull()) {
                        assertTrue(assertThrows(Events.Bad.class, () -> AvroEvents.read(bytes, spec, reader)).getMessage().length() > 5);
                        return;
                    }
                    assertValues(pair.get(1), AvroEvents.read(bytes, spec, reader), pair.toString());
                }));
            }
        }
        return tests.stream();
    }

    @Test
    void theFastReaderReadsTheCommonEvent() throws Events.Bad {
        List<Events.Column> columns = Events.columns(VECTORS.get("columns").toString());
        String event = "{\"a\": %s, \"x\": %s, \"s\": \"%s\", \"p\": true, \"m\": \"%s\", \"t\": \"%s\", \"d\": \"%s\"}";
        Random random = new Random(7);
        for (int i = 0; i < 2000; i++) {
            String time = Instant.ofEpochSecond(random.nextLong(-62_135_596_800L, 253_402_300_800L)).toString().replace("Z", "");
            time += List.of("", ".5", ".123456", ".1234567").get(random.nextInt(4)) + List.of("", "Z", "+00:00", "-09:30").get(random.nextInt(4));
            String digits = List.of("0", "-0.01", "12.5", "-9999999999.99", "007").get(random.nextInt(5));
            Object x = random.nextBoolean() ? random.nextGaussian() : (Object) random.nextInt();
            byte[] bytes = event.formatted(random.nextLong(), x, "é" + i, digits, time, LocalDate.ofEpochDay(random.nextInt(-719_162, 2_932_897))).getBytes(StandardCharsets.UTF_8);
            GenericRowData row = new GenericRowData(columns.size() + 1);
            assertTrue(new FastEvents(columns).read(bytes, row), time);
            Object[] slow = Events.read(bytes, columns);
            for (int c = 0; c < slow.length; c++) {
                Object got = row.getField(c + 1);
                assertEquals(slow[c], got instanceof StringData text ? text.toString() : got, time);
            }
        }
    }

    @Test
    void partialsOfSeveralKindsAreKeptTogether() {
        Partials partials = Partials.of("rows count - -; a min:BIGINT 0 -; b max:DOUBLE 1 2; c count 1 2; d min:BOOLEAN 2 -");
        byte[] state = partials.createAccumulator();
        assertEquals(GenericRowData.of(0L, null, null, 0L, null), partials.getValue(state));
        partials.accumulate(state, "", 5L, 0.5, true);
        partials.accumulate(state, "", -7L, 9.0, false);
        partials.accumulate(state, "", null, null, true);
        partials.accumulate(state, "", 6L, 9.0, null);
        assertEquals(GenericRowData.of(4L, -7L, 0.5, 1L, false), partials.getValue(state));
        byte[] other = partials.createAccumulator();
        partials.merge(other, List.of(state, state));
        assertEquals(GenericRowData.of(8L, -7L, 0.5, 2L, false), partials.getValue(other));
    }

    @Test
    void whatIsNoPartialIsRefused() {
        for (String spec : List.of("", "p0", "p0 median 0 -", "p0 min:STRING 0 -", "p0 count x -", "p0 count 0")) {
            assertThrows(ValidationException.class, () -> Partials.of(spec), spec);
        }
    }

    @Test
    void whatIsNotJsonIsRefused() {
        List<Events.Column> columns = Events.columns(VECTORS.get("columns").toString());
        for (String payload : List.of("", "{", "{\"a\": 1} {\"a\": 2}", "a=1", "\0")) {
            assertThrows(Events.Bad.class, () -> Events.read(payload.getBytes(StandardCharsets.UTF_8), columns), payload);
        }
    }

    @Test
    void textsAreOrderedByTheirUtf8Bytes() {
        assertTrue(Order.compareTexts("\uffee", "\ud83d\ude00") < 0);
        assertTrue(Order.compareTexts("B", "a") < 0);
        assertTrue(Order.compareTexts("a", "ab") < 0);
        assertEquals(0, Order.compareTexts("é", "é"));
    }
}
