package featurestore.flink;

import java.io.Serializable;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.functions.AggregateFunction;
import org.apache.flink.table.functions.SpecializedFunction;
import org.apache.flink.table.functions.UserDefinedFunction;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.FieldsDataType;
import org.apache.flink.table.types.inference.InputTypeStrategies;
import org.apache.flink.table.types.inference.StateTypeStrategy;
import org.apache.flink.table.types.inference.TypeInference;
import org.apache.flink.table.types.logical.RowType;

/**
 * All partials of a tile whose state has a fixed size, as one aggregate: counts, sums, least and greatest numbers, moments.
 *
 * <p>Its state is one array of words that is changed in place, so an event costs one look-up and no objects, however many
 * partials there are. The first argument, a literal, says what they are, the others are what they are made of. Parts are
 * parted by "; ", each is four words: a name, an operation, the number of its argument, the number of its condition (or "-").
 * A field of the result is called as its part, and a fifth word: there the function that runs reads what it has to do, for a
 * literal does not get that far.
 */
public class Partials extends AggregateFunction<RowData, byte[]> implements SpecializedFunction {
    private final Part[] parts;
    private final int words;
    private final int fields;

    /** What the planner makes by name; the one that runs knows its parts. */
    public Partials() {
        this(List.of());
    }

    private Partials(List<Part> parts) {
        this.parts = parts.toArray(Part[]::new);
        words = after(parts);
        fields = parts.stream().mapToInt(part -> part.fields).sum();
    }

    static Partials of(String spec) {
        return new Partials(read(spec));
    }

    // ── what is to be done ──

    private enum Operation {
        COUNT(1), SUM_INT(3), SUM_DOUBLE(3), MIN(2), MAX(2), MOMENTS2(2), MOMENTS3(3), MOMENTS4(4);

        final int words;
        final int order;

        Operation(int number) {
            order = name().startsWith("MOMENTS") ? number : 0;
            words = order > 0 ? 2 + 2 * order : number;
        }
    }

    /** What a least or greatest number is of; in state it is a whole word or the bits of a double. */
    private enum Kind {
        BIGINT(DataTypes.BIGINT()), INT(DataTypes.INT()), BOOLEAN(DataTypes.BOOLEAN()), DOUBLE(DataTypes.DOUBLE()),
        FLOAT(DataTypes.FLOAT());

        final DataType type;

        Kind(DataType type) {
            this.type = type;
        }

        boolean whole() {
            return this != DOUBLE && this != FLOAT;
        }

        long word(Object x) {
            if (this == BOOLEAN) {
                return (Boolean) x ? 1 : 0;
            }
            return whole() ? ((Number) x).longValue() : Double.doubleToRawLongBits(((Number) x).doubleValue());
        }

        Object value(long word) {
            return switch (this) {
                case BIGINT -> word;
                case INT -> (int) word;
                case BOOLEAN -> word == 1;
                case DOUBLE -> Double.longBitsToDouble(word);
                case FLOAT -> (float) Double.longBitsToDouble(word);
            };
        }

        int compare(long a, long b) {
            return whole() ? Long.compare(a, b) : Double.compare(Double.longBitsToDouble(a), Double.longBitsToDouble(b));
        }
    }

    /** One partial: what it reads (-1 for nothing), and where its words begin. */
    private static final class Part implements Serializable {
        final String text;
        final Operation operation;
        final Kind kind;
        final int argument;
        final int condition;
        final int at;
        final int fields;

        Part(String text, int at) {
            this.text = text;
            this.at = at;
            String[] said = text.split(" ");
            try {
                String[] named = said[1].split(":");
                operation = Operation.valueOf(named[0].toUpperCase(Locale.ROOT));
                kind = named.length > 1 ? Kind.valueOf(named[1]) : Kind.BIGINT;
                argument = said[2].equals("-") ? -1 : Integer.parseInt(said[2]);
                condition = said[3].equals("-") ? -1 : Integer.parseInt(said[3]);
            } catch (IllegalArgumentException | ArrayIndexOutOfBoundsException e) {
                throw new ValidationException("fs_partials: '" + text + "' is not a name, an operation, an argument and a condition", e);
            }
            fields = result().size();
        }

        List<DataTypes.Field> result() {
            return switch (operation) {
                case COUNT -> List.of(field("n", DataTypes.BIGINT()));
                case SUM_INT -> List.of(field("lo", DataTypes.BIGINT()), field("hi", DataTypes.BIGINT()));
                case SUM_DOUBLE -> List.of(field("s", DataTypes.DOUBLE()), field("c", DataTypes.DOUBLE()));
                case MIN, MAX -> List.of(field("v", kind.type));
                case MOMENTS2, MOMENTS3, MOMENTS4 -> {
                    List<DataTypes.Field> fields = new ArrayList<>(List.of(
                            field("n", DataTypes.BIGINT()), field("mean", DataTypes.DOUBLE()), field("low", DataTypes.DOUBLE())));
                    for (int k = 2; k <= operation.order; k++) {
                        fields.add(field("m" + k, DataTypes.DOUBLE()));
                    }
                    yield fields;
                }
            };
        }

        private DataTypes.Field field(String name, DataType type) {
            return DataTypes.FIELD(text + " " + name, type);
        }
    }

    private static List<Part> read(String spec) {
        List<Part> parts = new ArrayList<>();
        for (String text : spec.split("; ")) {
            parts.add(new Part(text, after(parts)));
        }
        return parts;
    }

    private static int after(List<Part> parts) {
        return parts.isEmpty() ? 0 : parts.get(parts.size() - 1).at + parts.get(parts.size() - 1).operation.words;
    }

    private static DataType result(List<Part> parts) {
        return DataTypes.ROW(parts.stream().flatMap(part -> part.result().stream()).toList()).bridgedTo(RowData.class);
    }

    /** A field of the result is called as its part and one word more. */
    @Override
    public UserDefinedFunction specialize(SpecializedContext context) {
        Optional<DataType> result = context.getCallContext().getOutputDataType();
        if (result.isEmpty() || !(result.get() instanceof FieldsDataType)) {
            return this;
        }
        var texts = new LinkedHashSet<String>();
        for (String name : ((RowType) result.get().getLogicalType()).getFieldNames()) {
            texts.add(name.substring(0, name.lastIndexOf(' ')));
        }
        return of(String.join("; ", texts));
    }

    @Override
    public TypeInference getTypeInference(DataTypeFactory factory) {
        var states = new LinkedHashMap<String, StateTypeStrategy>();
        states.put("state", StateTypeStrategy.of(call -> Optional.of(DataTypes.BYTES())));
        return TypeInference.newBuilder()
                .inputTypeStrategy(InputTypeStrategies.varyingSequence(
                        InputTypeStrategies.explicit(DataTypes.STRING()), InputTypeStrategies.ANY))
                .stateTypeStrategies(states)
                .outputTypeStrategy(call -> parts.length > 0
                        ? Optional.of(result(Arrays.asList(parts)))
                        : call.getArgumentValue(0, String.class).map(spec -> result(read(spec))))
                .build();
    }

    // ── state ──

    private static final VarHandle WORDS = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);

    private static long word(byte[] state, int at) {
        return (long) WORDS.get(state, 8 * at);
    }

    private static double number(byte[] state, int at) {
        return Double.longBitsToDouble(word(state, at));
    }

    private static void set(byte[] state, int at, long word) {
        WORDS.set(state, 8 * at, word);
    }

    private static void set(byte[] state, int at, double number) {
        set(state, at, Double.doubleToRawLongBits(number));
    }

    @Override
    public byte[] createAccumulator() {
        return new byte[8 * words];
    }

    public void accumulate(byte[] state, String spec, Object... arguments) {
        for (Part part : parts) {
            if (part.condition >= 0 && !Boolean.TRUE.equals(arguments[part.condition])) {
                continue;
            }
            Object x = part.argument < 0 ? Boolean.TRUE : arguments[part.argument];
            if (x != null) {
                add(state, part, x);
            }
        }
    }

    private static void add(byte[] state, Part part, Object x) {
        int at = part.at;
        switch (part.operation) {
            case COUNT -> set(state, at, word(state, at) + 1);
            case SUM_INT -> {
                long value = ((Number) x).longValue();
                addWhole(state, at, 1, value, value >> 63);
            }
            case SUM_DOUBLE -> addDouble(state, at, 1, ((Number) x).doubleValue(), 0);
            case MIN, MAX -> choose(state, part, part.kind.word(x));
            case MOMENTS2, MOMENTS3, MOMENTS4 -> addMoment(state, part, ((Number) x).doubleValue());
        }
    }

    private static void choose(byte[] state, Part part, long word) {
        int at = part.at;
        if (word(state, at) != 0) {
            long kept = word(state, at + 1);
            int side = part.kind.compare(word, kept);
            if (part.operation == Operation.MIN ? side >= 0 : side <= 0) {
                return;
            }
        }
        set(state, at, 1L);
        set(state, at + 1, word);
    }

    /** 128 bits in two limbs, the lower unsigned. */
    private static void addWhole(byte[] state, int at, long n, long lo, long hi) {
        long before = word(state, at + 1);
        long sum = before + lo;
        set(state, at, word(state, at) + n);
        set(state, at + 1, sum);
        set(state, at + 2, word(state, at + 2) + hi + (Long.compareUnsigned(sum, before) < 0 ? 1 : 0));
    }

    /** A sum and its compensation. Neumaier (1974). */
    private static void addDouble(byte[] state, int at, long n, double x, double compensation) {
        double s = number(state, at + 1);
        double sum = s + x;
        double c = number(state, at + 2) + compensation;
        if (Double.isFinite(sum)) {
            c += Math.abs(s) >= Math.abs(x) ? (s - sum) + x : (x - sum) + s;
        }
        set(state, at, word(state, at) + n);
        set(state, at + 1, sum);
        set(state, at + 2, c);
    }

    private static void addMoment(byte[] state, Part part, double x) {
        int at = part.at;
        long n = word(state, at);
        set(state, at, n + 1);
        if (n == 0) {
            set(state, at + 1, x);
            return;
        }
        Pair difference = Pair.sum(x, -number(state, at + 1));
        Pair product = difference;
        for (int k = 1; k <= part.operation.order; k++) {
            Pair sum = new Pair(number(state, at + 2 * k), number(state, at + 2 * k + 1)).plus(product);
            set(state, at + 2 * k, sum.hi());
            set(state, at + 2 * k + 1, sum.lo());
            if (k < part.operation.order) {
                product = product.times(difference);
            }
        }
    }

    public void merge(byte[] state, Iterable<byte[]> others) {
        for (byte[] other : others) {
            for (Part part : parts) {
                int at = part.at;
                switch (part.operation) {
                    case COUNT -> set(state, at, word(state, at) + word(other, at));
                    case SUM_INT -> addWhole(state, at, word(other, at), word(other, at + 1), word(other, at + 2));
                    case SUM_DOUBLE -> addDouble(
                            state, at, word(other, at), number(other, at + 1), number(other, at + 2));
                    case MIN, MAX -> {
                        if (word(other, at) != 0) {
                            choose(state, part, word(other, at + 1));
                        }
                    }
                    case MOMENTS2, MOMENTS3, MOMENTS4 -> {
                        Moments.State sum = moments(state, part);
                        sum.merge(moments(other, part), part.operation.order);
                        set(state, at, sum.n);
                        set(state, at + 1, sum.shift);
                        for (int k = 1; k <= part.operation.order; k++) {
                            set(state, at + 2 * k, sum.hi[k - 1]);
                            set(state, at + 2 * k + 1, sum.lo[k - 1]);
                        }
                    }
                }
            }
        }
    }

    private static Moments.State moments(byte[] state, Part part) {
        Moments.State moments = new Moments.State();
        moments.n = word(state, part.at);
        moments.shift = number(state, part.at + 1);
        for (int k = 1; k <= part.operation.order; k++) {
            moments.hi[k - 1] = number(state, part.at + 2 * k);
            moments.lo[k - 1] = number(state, part.at + 2 * k + 1);
        }
        return moments;
    }

    @Override
    public RowData getValue(byte[] state) {
        Object[] row = new Object[fields];
        int field = 0;
        for (Part part : parts) {
            finish(part, state, row, field);
            field += part.fields;
        }
        return GenericRowData.of(row);
    }

    private static void finish(Part part, byte[] state, Object[] row, int field) {
        int at = part.at;
        long n = word(state, at);
        switch (part.operation) {
            case COUNT -> row[field] = n;
            case SUM_INT -> {
                if (n != 0) {
                    row[field] = word(state, at + 1);
                    row[field + 1] = word(state, at + 2);
                }
            }
            case SUM_DOUBLE -> {
                if (n != 0) {
                    row[field] = number(state, at + 1);
                    row[field + 1] = number(state, at + 2);
                }
            }
            case MIN, MAX -> {
                if (n != 0) {
                    row[field] = part.kind.value(word(state, at + 1));
                }
            }
            case MOMENTS2, MOMENTS3, MOMENTS4 -> moments(state, part).finish(part.operation.order, row, field);
        }
    }
}
