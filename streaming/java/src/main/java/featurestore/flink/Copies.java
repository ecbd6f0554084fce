package featurestore.flink;

import static org.apache.flink.table.annotation.ArgumentTrait.PASS_COLUMNS_THROUGH;
import static org.apache.flink.table.annotation.ArgumentTrait.SET_SEMANTIC_TABLE;

import org.apache.flink.table.annotation.ArgumentHint;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.StateHint;
import org.apache.flink.table.functions.ProcessTableFunction;
import org.apache.flink.types.Row;

/**
 * Lets each event through once. Its input is parted by what copies share; its first column is the hash of all that an event
 * says, NULL for one that is nobody's copy.
 *
 * <p>The first that came goes on; an equal one is gone; one that says something else goes on with {@code #unequal} set.
 * What it remembers of an event is one number, for as long as {@code table.exec.state.ttl} says. Unlike ROW_NUMBER it never takes
 * back what it let through, so what follows may work in batches.
 */
@DataTypeHint("ROW<`#unequal` BOOLEAN>")
public class Copies extends ProcessTableFunction<Row> {
    /** What the first of several copies said. */
    public static class Seen {
        public Long content;
    }

    public void eval(@StateHint Seen seen, @ArgumentHint({SET_SEMANTIC_TABLE, PASS_COLUMNS_THROUGH}) Row input) {
        Long content = (Long) input.getField(0);
        if (content == null) {
            collect(Row.of(false));
        } else if (seen.content == null) {
            seen.content = content;
            collect(Row.of(false));
        } else if (!seen.content.equals(content)) {
            collect(Row.of(true));
        }
    }
}
