package featurestore.flink;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.DataTypes.Field;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.functions.AggregateFunction;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.inference.CallContext;
import org.apache.flink.table.types.inference.InputTypeStrategies;
import org.apache.flink.table.types.inference.InputTypeStrategy;
import org.apache.flink.table.types.inference.StateTypeStrategy;
import org.apache.flink.table.types.inference.TypeInference;
import org.apache.flink.types.Row;

/**
 * Aggregates of values of any type. State is a row of the argument's own types.
 *
 * <p>The order of events is that of their times, then of the bytes of their order keys ({@link Items.OrderKey}).
 */
public final class Ordered {
    private Ordered() {}

    /** Names and types of a row, from the types of the arguments. */
    interface Shape {
        List<Field> of(List<DataType> arguments);
    }

    static TypeInference inference(InputTypeStrategy input, Shape state, Shape output) {
        var states = new java.util.LinkedHashMap<String, StateTypeStrategy>();
        states.put("state", StateTypeStrategy.of(call -> row(call, state)));
        return TypeInference.newBuilder()
                .inputTypeStrategy(input)
                .stateTypeStrategies(states)
                .outputTypeStrategy(call -> row(call, output))
                .build();
    }

    private static Optional<DataType> row(CallContext call, Shape shape) {
        return Optional.of(DataTypes.ROW(shape.of(call.getArgumentDataTypes())));
    }

    static Field field(String name, DataType type) {
        return DataTypes.FIELD(name, type.nullable());
    }

    static Field list(String name, DataType item) {
        return DataTypes.FIELD(name, DataTypes.ARRAY(item.nullable()).nullable().bridgedTo(List.class));
    }

    static InputTypeStrategy input(Object... types) {
        return InputTypeStrategies.sequence(
                Arrays.stream(types)
                        .map(t -> t instanceof DataType type ? InputTypeStrategies.explicit(type) : InputTypeStrategies.ANY)
                        .toArray(org.apache.flink.table.types.inference.ArgumentTypeStrategy[]::new));
    }

    static final Object ANY = new Object();

    @SuppressWarnings("unchecked")
    static <T> List<T> items(Row state, int field) {
        List<T> items = (List<T>) state.getField(field);
        if (!(items instanceof ArrayList)) { // what comes back from state may not be changed
            items = items == null ? new ArrayList<>() : new ArrayList<>(items);
            state.setField(field, items);
        }
        return items;
    }

    static int compare(long at, byte[] key, long otherAt, byte[] otherKey) {
        int times = Long.compare(at, otherAt);
        return times != 0 ? times : Arrays.compareUnsigned(key, otherKey);
    }

    // ── one event ──

    /** The first or the last value that is not null: arguments are value, time, order key. */
    public abstract static class Picked extends AggregateFunction<Row, Row> {
        private final int sign;

        Picked(int sign) {
            this.sign = sign;
        }

        @Override
        public Row createAccumulator() {
            return new Row(3);
        }

        public void accumulate(Row state, Object value, Long at, byte[] key) {
            if (value == null) {
                return;
            }
            Long kept = (Long) state.getField(0);
            if (kept == null || compare(at, key, kept, (byte[]) state.getField(1)) * sign > 0) {
                state.setField(0, at);
                state.setField(1, key);
                state.setField(2, value);
            }
        }

        public void merge(Row state, Iterable<Row> others) {
            for (Row other : others) {
                accumulate(state, other.getField(2), (Long) other.getField(0), (byte[]) other.getField(1));
            }
        }

        @Override
        public Row getValue(Row state) {
            return state.getField(0) == null ? null : Row.of(state.getField(0), state.getField(2));
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return inference(
                    input(ANY, DataTypes.BIGINT(), DataTypes.BYTES()),
                    types -> List.of(field("at", types.get(1)), field("key", types.get(2)), field("v", types.get(0))),
                    types -> List.of(field("at", types.get(1)), field("v", types.get(0))));
        }
    }

    public static class First extends Picked {
        public First() {
            super(-1);
        }
    }

    public static class Last extends Picked {
        public Last() {
            super(1);
        }
    }

    /** The value, null or not, of the event with the least or greatest `by`, the earliest of several. */
    public abstract static class Best extends AggregateFunction<Row, Row> {
        private final int sign;

        Best(int sign) {
            this.sign = sign;
        }

        @Override
        public Row createAccumulator() {
            return new Row(4);
        }

        public void accumulate(Row state, Object value, Object by, Long at, byte[] key) {
            if (by == null) {
                return;
            }
            Object best = state.getField(0);
            int better = best == null ? 1 : Order.compare(by, best) * sign;
            if (better == 0) {
                better = -compare(at, key, (Long) state.getField(1), (byte[]) state.getField(2));
            }
            if (better > 0) {
                state.setField(0, by);
                state.setField(1, at);
                state.setField(2, key);
                state.setField(3, value);
            }
        }

        public void merge(Row state, Iterable<Row> others) {
            for (Row other : others) {
                accumulate(state, other.getField(3), other.getField(0), (Long) other.getField(1), (byte[]) other.getField(2));
            }
        }

        @Override
        public Row getValue(Row state) {
            Object value = state.getField(3);
            return state.getField(0) == null ? null : Row.of(state.getField(0), state.getField(1), value != null, value);
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return inference(
                    input(ANY, ANY, DataTypes.BIGINT(), DataTypes.BYTES()),
                    types -> List.of(
                            field("by", types.get(1)), field("at", types.get(2)), field("key", types.get(3)), field("v", types.get(0))),
                    types -> List.of(
                            field("by", types.get(1)),
                            field("at", types.get(2)),
                            field("known", DataTypes.BOOLEAN()),
                            field("v", types.get(0))));
        }
    }

    public static class MinBy extends Best {
        public MinBy() {
            super(-1);
        }
    }

    public static class MaxBy extends Best {
        public MaxBy() {
            super(1);
        }
    }

    // ── several events ──

    /** The first or last k values that are not null, oldest first: arguments are value, time, order key, k. */
    public abstract static class PickedK extends AggregateFunction<Row, Row> {
        private final boolean last;

        PickedK(boolean last) {
            this.last = last;
        }

        @Override
        public Row createAccumulator() {
            return Row.of(0, new ArrayList<>(), new ArrayList<>(), new ArrayList<>());
        }

        public void accumulate(Row state, Object value, Long at, byte[] key, Integer k) {
            if (value == null) {
                return;
            }
            state.setField(0, k);
            List<Long> times = items(state, 1);
            List<byte[]> keys = items(state, 2);
            List<Object> values = items(state, 3);
            int low = 0;
            int high = times.size();
            while (low < high) {
                int middle = (low + high) >>> 1;
                if (compare(at, key, times.get(middle), keys.get(middle)) < 0) {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            times.add(low, at);
            keys.add(low, key);
            values.add(low, value);
            if (times.size() > k) {
                int gone = last ? 0 : k;
                times.remove(gone);
                keys.remove(gone);
                values.remove(gone);
            }
        }

        public void merge(Row state, Iterable<Row> others) {
            for (Row other : others) {
                List<Long> times = items(other, 1);
                List<byte[]> keys = items(other, 2);
                List<Object> values = items(other, 3);
                for (int i = 0; i < times.size(); i++) {
                    accumulate(state, values.get(i), times.get(i), keys.get(i), (Integer) other.getField(0));
                }
            }
        }

        @Override
        public Row getValue(Row state) {
            return Row.of(state.getField(1), state.getField(3));
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return inference(
                    input(ANY, DataTypes.BIGINT(), DataTypes.BYTES(), DataTypes.INT()),
                    types -> List.of(
                            field("k", types.get(3)), list("at", types.get(1)), list("key", types.get(2)), list("v", types.get(0))),
                    types -> List.of(list("at", types.get(1)), list("v", types.get(0))));
        }
    }

    public static class FirstK extends PickedK {
        public FirstK() {
            super(false);
        }
    }

    public static class LastK extends PickedK {
        public LastK() {
            super(true);
        }
    }

    /** The k best values, the best first, equal ones as often as they come: arguments are value, k. */
    public abstract static class BestK extends AggregateFunction<Row, Row> {
        private final int sign;

        BestK(int sign) {
            this.sign = sign;
        }

        @Override
        public Row createAccumulator() {
            return Row.of(0, new ArrayList<>());
        }

        public void accumulate(Row state, Object value, Integer k) {
            if (value == null) {
                return;
            }
            state.setField(0, k);
            List<Object> values = items(state, 1);
            int low = 0;
            int high = values.size();
            while (low < high) {
                int middle = (low + high) >>> 1;
                if (Order.compare(value, values.get(middle)) * sign > 0) {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            if (low < k) {
                values.add(low, value);
                if (values.size() > k) {
                    values.remove((int) k);
                }
            }
        }

        public void merge(Row state, Iterable<Row> others) {
            for (Row other : others) {
                for (Object value : items(other, 1)) {
                    accumulate(state, value, (Integer) other.getField(0));
                }
            }
        }

        @Override
        public Row getValue(Row state) {
            return Row.of(state.getField(1));
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return inference(
                    input(ANY, DataTypes.INT()),
                    types -> List.of(field("k", types.get(1)), list("v", types.get(0))),
                    types -> List.of(list("v", types.get(0))));
        }
    }

    public static class Largest extends BestK {
        public Largest() {
            super(1);
        }
    }

    public static class Smallest extends BestK {
        public Smallest() {
            super(-1);
        }
    }

    /** How often each value comes, in the order of values, of the `bound` least ones: arguments are value, bound. */
    public static class Frequencies extends AggregateFunction<Row, Row> {
        @Override
        public Row createAccumulator() {
            return Row.of(0, new ArrayList<>(), new ArrayList<>());
        }

        public void accumulate(Row state, Object value, Integer bound) {
            add(state, value, 1, bound);
        }

        private static void add(Row state, Object value, long n, Integer bound) {
            if (value == null) {
                return;
            }
            state.setField(0, bound);
            List<Object> values = items(state, 1);
            List<Long> counts = items(state, 2);
            int low = 0;
            int high = values.size();
            while (low < high) {
                int middle = (low + high) >>> 1;
                int side = Order.compare(value, values.get(middle));
                if (side == 0) {
                    counts.set(middle, counts.get(middle) + n);
                    return;
                }
                if (side < 0) {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            if (low < bound) { // a value that went beyond the bound stays beyond: lesser ones only push it further
                values.add(low, value);
                counts.add(low, n);
                if (values.size() > bound) {
                    values.remove((int) bound);
                    counts.remove((int) bound);
                }
            }
        }

        public void merge(Row state, Iterable<Row> others) {
            for (Row other : others) {
                List<Object> values = items(other, 1);
                List<Long> counts = items(other, 2);
                for (int i = 0; i < values.size(); i++) {
                    add(state, values.get(i), counts.get(i), (Integer) other.getField(0));
                }
            }
        }

        @Override
        public Row getValue(Row state) {
            return Row.of(state.getField(1), state.getField(2));
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return inference(
                    input(ANY, DataTypes.INT()),
                    types -> List.of(field("bound", types.get(1)), list("v", types.get(0)), list("n", DataTypes.BIGINT())),
                    types -> List.of(list("v", types.get(0)), list("n", DataTypes.BIGINT())));
        }
    }

    /** The k least distinct hashes, unsigned, in order: arguments are hash, k. */
    public static class Distinct extends AggregateFunction<Row, Row> {
        @Override
        public Row createAccumulator() {
            return Row.of(0, new ArrayList<>());
        }

        public void accumulate(Row state, Long hash, Integer k) {
            if (hash == null) {
                return;
            }
            state.setField(0, k);
            List<Long> hashes = items(state, 1);
            int low = 0;
            int high = hashes.size();
            while (low < high) {
                int middle = (low + high) >>> 1;
                int side = Long.compareUnsigned(hash, hashes.get(middle));
                if (side == 0) {
                    return;
                }
                if (side < 0) {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            if (low < k) {
                hashes.add(low, hash);
                if (hashes.size() > k) {
                    hashes.remove((int) k);
                }
            }
        }

        public void merge(Row state, Iterable<Row> others) {
            for (Row other : others) {
                List<Long> hashes = items(other, 1);
                for (Long hash : hashes) {
                    accumulate(state, hash, (Integer) other.getField(0));
                }
            }
        }

        @Override
        public Row getValue(Row state) {
            return Row.of(state.getField(1));
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return inference(
                    input(DataTypes.BIGINT(), DataTypes.INT()),
                    types -> List.of(field("k", types.get(1)), list("v", DataTypes.BIGINT())),
                    types -> List.of(list("v", DataTypes.BIGINT())));
        }
    }
}
